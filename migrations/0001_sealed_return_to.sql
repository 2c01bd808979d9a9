-- A sign-in lives for 10 minutes, and what was kept with those under way was not sealed: they begin again.
DELETE FROM "sign_in_flow";--> statement-breakpoint
ALTER TABLE "sign_in_flow" ALTER COLUMN "return_to" SET DATA TYPE bytea USING convert_to("return_to", 'UTF8');
