CREATE TABLE "activity_batch" (
	"id" bigserial PRIMARY KEY NOT NULL,
	"xid" "xid8" DEFAULT pg_current_xact_id() NOT NULL,
	"arrived_at" timestamp with time zone DEFAULT now() NOT NULL,
	"writer" uuid NOT NULL,
	"first_seq" bigint NOT NULL,
	"last_seq" bigint NOT NULL,
	"min_occurred_at" timestamp with time zone NOT NULL,
	"max_occurred_at" timestamp with time zone NOT NULL
);
--> statement-breakpoint
CREATE TABLE "activity_writer" (
	"id" uuid PRIMARY KEY NOT NULL,
	"started_at" timestamp with time zone NOT NULL,
	"last_seq" bigint NOT NULL,
	"last_hash" "bytea" NOT NULL,
	"spool_position" bigint NOT NULL
);
--> statement-breakpoint
CREATE TABLE "last_use" (
	"issuer" text NOT NULL,
	"user_id" text NOT NULL,
	"upstream" text NOT NULL,
	"last_used_at" timestamp with time zone NOT NULL,
	CONSTRAINT "last_use_issuer_user_id_upstream_pk" PRIMARY KEY("issuer","user_id","upstream")
);
--> statement-breakpoint
ALTER TABLE "activity" ADD COLUMN "writer" uuid;--> statement-breakpoint
ALTER TABLE "activity" ADD COLUMN "seq" bigint;--> statement-breakpoint
ALTER TABLE "activity" ADD COLUMN "hash" "bytea";--> statement-breakpoint
CREATE INDEX "activity_batch_writer" ON "activity_batch" USING btree ("writer","last_seq");--> statement-breakpoint
-- Until now it was read from the log itself, once a page.
INSERT INTO "last_use" SELECT "issuer", "user_id", "upstream", max("occurred_at") FROM "activity"
WHERE "type" = 'credential_broker' AND "outcome" = 'success' AND "action" IN ('inject', 'acquire', 'refresh')
  AND "actor_kind" <> 'system' AND "issuer" IS NOT NULL AND "user_id" IS NOT NULL AND "upstream" IS NOT NULL
GROUP BY "issuer", "user_id", "upstream";
