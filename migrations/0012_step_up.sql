CREATE TABLE "step_up" (
	"issuer" text NOT NULL,
	"user_id" text NOT NULL,
	"upstream" text NOT NULL,
	"scopes" text[] NOT NULL,
	"completed_at" timestamp with time zone NOT NULL
);
--> statement-breakpoint
CREATE INDEX "step_up_person" ON "step_up" USING btree ("issuer","user_id","upstream");--> statement-breakpoint
CREATE INDEX "step_up_completed" ON "step_up" USING btree ("completed_at");