CREATE TABLE "cut_off" (
	"issuer" text NOT NULL,
	"user_id" text NOT NULL,
	"cut_at" timestamp with time zone NOT NULL,
	"returned_at" timestamp with time zone,
	CONSTRAINT "cut_off_issuer_user_id_pk" PRIMARY KEY("issuer","user_id")
);
--> statement-breakpoint
CREATE TABLE "invalidation" (
	"id" bigint PRIMARY KEY NOT NULL,
	"issuer" text NOT NULL,
	"user_id" text NOT NULL,
	"upstream" text,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "invalidation_counter" (
	"only" boolean PRIMARY KEY DEFAULT true NOT NULL,
	"last" bigint NOT NULL,
	CONSTRAINT "invalidation_counter_one_row" CHECK ("invalidation_counter"."only")
);
--> statement-breakpoint
INSERT INTO "invalidation_counter" VALUES (true, 0);
--> statement-breakpoint
CREATE TABLE "replica" (
	"id" uuid PRIMARY KEY NOT NULL,
	"started_at" timestamp with time zone NOT NULL,
	"heard_at" timestamp with time zone NOT NULL,
	"seen" bigint NOT NULL
);
--> statement-breakpoint
ALTER TABLE "sign_in_token" ADD COLUMN "signed_in_at" timestamp with time zone DEFAULT now() NOT NULL;
