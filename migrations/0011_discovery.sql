CREATE TABLE "client_registration" (
	"authorization_server" text NOT NULL,
	"redirect_uri" text NOT NULL,
	"client_id" text,
	"client" "bytea",
	"expires_at" timestamp with time zone,
	"registering_until" timestamp with time zone,
	"dropped_at" timestamp with time zone,
	CONSTRAINT "client_registration_authorization_server_redirect_uri_pk" PRIMARY KEY("authorization_server","redirect_uri")
);
--> statement-breakpoint
CREATE TABLE "upstream_discovery" (
	"upstream" text PRIMARY KEY NOT NULL,
	"source" text NOT NULL,
	"found" "bytea" NOT NULL,
	"found_at" timestamp with time zone NOT NULL
);
