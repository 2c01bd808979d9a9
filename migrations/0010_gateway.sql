CREATE TABLE "gateway_session" (
	"id_hash" "bytea" PRIMARY KEY NOT NULL,
	"issuer" text NOT NULL,
	"user_id" text NOT NULL,
	"upstream" text NOT NULL,
	"initialize" jsonb NOT NULL,
	"revision" text NOT NULL,
	"upstream_session" "bytea",
	"upstream_revision" text,
	"opened_for" timestamp with time zone,
	"opening_until" timestamp with time zone,
	"elicitations" text[] NOT NULL,
	"used_at" timestamp with time zone NOT NULL
);
--> statement-breakpoint
CREATE TABLE "upstream_server" (
	"upstream" text PRIMARY KEY NOT NULL,
	"revisions" text[],
	"capabilities" jsonb
);
--> statement-breakpoint
CREATE INDEX "gateway_session_person" ON "gateway_session" USING btree ("issuer","user_id","upstream");--> statement-breakpoint
CREATE INDEX "gateway_session_use" ON "gateway_session" USING btree ("used_at");