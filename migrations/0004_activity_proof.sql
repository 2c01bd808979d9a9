CREATE TABLE "activity_before_chain" (
	"only" boolean PRIMARY KEY DEFAULT true NOT NULL,
	"existed" boolean NOT NULL,
	"chained_since" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "activity_before_chain_one_row" CHECK ("activity_before_chain"."only")
);
--> statement-breakpoint
CREATE TABLE "activity_checkpoint" (
	"id" bigserial PRIMARY KEY NOT NULL,
	"made_at" timestamp with time zone DEFAULT now() NOT NULL,
	"complete" boolean NOT NULL,
	"checkpoint" jsonb NOT NULL,
	"key_id" text NOT NULL,
	"signature" text NOT NULL
);
--> statement-breakpoint
CREATE TABLE "activity_destination" (
	"id" text PRIMARY KEY NOT NULL,
	"batch_id" bigint NOT NULL,
	"delivered_at" timestamp with time zone,
	"seen_at" timestamp with time zone NOT NULL
);
--> statement-breakpoint
CREATE TABLE "activity_removal" (
	"id" bigserial PRIMARY KEY NOT NULL,
	"removed_at" timestamp with time zone DEFAULT now() NOT NULL,
	"partition" text NOT NULL,
	"writer" uuid NOT NULL,
	"first_seq" bigint NOT NULL,
	"last_seq" bigint NOT NULL,
	"last_hash" text NOT NULL,
	"key_id" text NOT NULL,
	"signature" text NOT NULL
);
--> statement-breakpoint
CREATE TABLE "activity_signing_key" (
	"key_id" text PRIMARY KEY NOT NULL,
	"number" integer NOT NULL,
	"public_key" text NOT NULL,
	"private_key" "bytea" NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "activity_signing_key_number_unique" UNIQUE("number")
);
--> statement-breakpoint
CREATE TABLE "task_lease" (
	"name" text PRIMARY KEY NOT NULL,
	"owner" uuid NOT NULL,
	"leased_until" timestamp with time zone NOT NULL
);
--> statement-breakpoint
CREATE INDEX "activity_checkpoint_made" ON "activity_checkpoint" USING btree ("made_at");--> statement-breakpoint
CREATE UNIQUE INDEX "activity_removal_run" ON "activity_removal" USING btree ("writer","first_seq","last_seq");--> statement-breakpoint
INSERT INTO "activity_before_chain" ("existed") SELECT EXISTS (SELECT FROM "activity" WHERE "writer" IS NULL);
