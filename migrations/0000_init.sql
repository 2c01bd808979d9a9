CREATE SEQUENCE "public"."credential_generation" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1;--> statement-breakpoint
CREATE TABLE "activity" (
	"id" uuid NOT NULL,
	"occurred_at" timestamp with time zone NOT NULL,
	"request_id" uuid NOT NULL,
	"type" text NOT NULL,
	"user_id" text,
	"issuer" text,
	"actor_kind" text NOT NULL,
	"actor_id" text NOT NULL,
	"upstream" text,
	"action" text NOT NULL,
	"method" text NOT NULL,
	"outcome" text NOT NULL,
	"reason" text,
	"duration_ms" double precision NOT NULL,
	"details" jsonb DEFAULT '{}' NOT NULL,
	CONSTRAINT "activity_occurred_at_id_pk" PRIMARY KEY("occurred_at","id")
) PARTITION BY RANGE ("occurred_at");
--> statement-breakpoint
-- Weekly partitions are made ahead at run time; a record outside of them is never lost, it lands here.
CREATE TABLE "activity_default" PARTITION OF "activity" DEFAULT;
--> statement-breakpoint
CREATE TABLE "connect_flow" (
	"state_hash" "bytea" PRIMARY KEY NOT NULL,
	"browser_hash" "bytea" NOT NULL,
	"issuer" text NOT NULL,
	"user_id" text NOT NULL,
	"upstream" text NOT NULL,
	"return_to" text,
	"scopes" text[] NOT NULL,
	"code_verifier" "bytea" NOT NULL,
	"expected_issuer" text,
	"issuer_required" boolean NOT NULL,
	"authorization_server" text NOT NULL,
	"client_id" text NOT NULL,
	"resource" text,
	"expires_at" timestamp with time zone NOT NULL
);
--> statement-breakpoint
CREATE TABLE "connect_ticket" (
	"ticket_hash" "bytea" PRIMARY KEY NOT NULL,
	"sealed_ticket" "bytea",
	"issuer" text NOT NULL,
	"user_id" text NOT NULL,
	"upstream" text NOT NULL,
	"return_to" text,
	"scopes" text[] NOT NULL,
	"claims" "bytea",
	"claims_hash" "bytea",
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"expires_at" timestamp with time zone NOT NULL,
	"used_at" timestamp with time zone
);
--> statement-breakpoint
CREATE TABLE "credential" (
	"issuer" text NOT NULL,
	"user_id" text NOT NULL,
	"upstream" text NOT NULL,
	"generation" bigint NOT NULL,
	"status" text NOT NULL,
	"reason" text,
	"method" text NOT NULL,
	"scopes" text[] NOT NULL,
	"audience" text,
	"account" text,
	"authorization_server" text NOT NULL,
	"client_id" text NOT NULL,
	"resource" text,
	"access_token" "bytea",
	"refresh_token" "bytea",
	"renewed" boolean NOT NULL,
	"connected_at" timestamp with time zone NOT NULL,
	"obtained_at" timestamp with time zone NOT NULL,
	"expires_at" timestamp with time zone,
	"lease_owner" uuid,
	"lease_epoch" bigint DEFAULT 0 NOT NULL,
	"lease_until" timestamp with time zone,
	"attempt_started_at" timestamp with time zone,
	"fail_count" integer DEFAULT 0 NOT NULL,
	"next_try_at" timestamp with time zone,
	CONSTRAINT "credential_issuer_user_id_upstream_pk" PRIMARY KEY("issuer","user_id","upstream")
);
--> statement-breakpoint
CREATE TABLE "encryption_key" (
	"id" text PRIMARY KEY NOT NULL,
	"check" "bytea" NOT NULL
);
--> statement-breakpoint
CREATE TABLE "sign_in_token" (
	"issuer" text NOT NULL,
	"user_id" text NOT NULL,
	"generation" bigint NOT NULL,
	"access_token" "bytea" NOT NULL,
	"access_token_expires_at" timestamp with time zone,
	"id_token" "bytea",
	"id_token_expires_at" timestamp with time zone,
	"refresh_token" "bytea",
	CONSTRAINT "sign_in_token_issuer_user_id_pk" PRIMARY KEY("issuer","user_id")
);
--> statement-breakpoint
CREATE TABLE "session" (
	"session_hash" "bytea" PRIMARY KEY NOT NULL,
	"issuer" text NOT NULL,
	"user_id" text NOT NULL,
	"email" text,
	"roles" text[] NOT NULL,
	"created_at" timestamp with time zone NOT NULL,
	"expires_at" timestamp with time zone NOT NULL
);
--> statement-breakpoint
CREATE TABLE "sign_in_flow" (
	"state_hash" "bytea" PRIMARY KEY NOT NULL,
	"browser_hash" "bytea" NOT NULL,
	"code_verifier" "bytea" NOT NULL,
	"nonce" "bytea" NOT NULL,
	"return_to" text NOT NULL,
	"expires_at" timestamp with time zone NOT NULL
);
--> statement-breakpoint
CREATE INDEX "activity_user" ON "activity" USING btree ("user_id","occurred_at" DESC NULLS FIRST,"id" DESC NULLS FIRST);--> statement-breakpoint
CREATE INDEX "activity_upstream_outcome" ON "activity" USING btree ("upstream","outcome","occurred_at" DESC NULLS FIRST,"id" DESC NULLS FIRST);--> statement-breakpoint
CREATE INDEX "connect_flow_expiry" ON "connect_flow" USING btree ("expires_at");--> statement-breakpoint
CREATE INDEX "connect_ticket_person" ON "connect_ticket" USING btree ("issuer","user_id","upstream");--> statement-breakpoint
CREATE INDEX "connect_ticket_expiry" ON "connect_ticket" USING btree ("expires_at");--> statement-breakpoint
CREATE INDEX "session_person" ON "session" USING btree ("issuer","user_id");--> statement-breakpoint
CREATE INDEX "session_expiry" ON "session" USING btree ("expires_at");--> statement-breakpoint
CREATE INDEX "sign_in_flow_expiry" ON "sign_in_flow" USING btree ("expires_at");