CREATE TABLE "acquisition_attempt" (
	"issuer" text NOT NULL,
	"user_id" text NOT NULL,
	"upstream" text NOT NULL,
	"name" text NOT NULL,
	"generation" bigint NOT NULL,
	"lease_until" timestamp with time zone,
	"fail_count" integer DEFAULT 0 NOT NULL,
	"next_try_at" timestamp with time zone,
	"failure" text,
	"expires_at" timestamp with time zone NOT NULL,
	CONSTRAINT "acquisition_attempt_issuer_user_id_upstream_name_pk" PRIMARY KEY("issuer","user_id","upstream","name")
);
--> statement-breakpoint
CREATE TABLE "token_endpoint_pause" (
	"authorization_server" text PRIMARY KEY NOT NULL,
	"paused_until" timestamp with time zone NOT NULL
);
--> statement-breakpoint
ALTER TABLE "credential" ADD COLUMN "failure" text;--> statement-breakpoint
ALTER TABLE "credential" ADD COLUMN "forced_at" timestamp with time zone[] DEFAULT '{}' NOT NULL;--> statement-breakpoint
ALTER TABLE "sign_in_token" ADD COLUMN "lease_owner" uuid;--> statement-breakpoint
ALTER TABLE "sign_in_token" ADD COLUMN "lease_until" timestamp with time zone;--> statement-breakpoint
CREATE INDEX "acquisition_attempt_expiry" ON "acquisition_attempt" USING btree ("expires_at");