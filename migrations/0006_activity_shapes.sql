-- Its body is written into the indexes that use it, so nothing of it may depend on a search path.
CREATE FUNCTION "activity_shape_of"("type" text, "issuer" text, "upstream" text, "action" text, "method" text, "outcome" text, "reason" text)
RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
	SELECT hashtextextended("type" || E'\t' || coalesce("issuer", '') || E'\t' || coalesce("upstream", '') || E'\t' || "action" || E'\t' || "method" || E'\t' || "outcome" || E'\t' || coalesce("reason", ''), 0)
$$;
--> statement-breakpoint
CREATE TABLE "activity_shape" (
	"shape" bigint PRIMARY KEY NOT NULL,
	"type" text NOT NULL,
	"issuer" text,
	"upstream" text,
	"action" text NOT NULL,
	"method" text NOT NULL,
	"outcome" text NOT NULL,
	"reason" text
);
--> statement-breakpoint
DROP INDEX "activity_upstream_outcome";--> statement-breakpoint
CREATE INDEX "activity_actor" ON "activity" USING btree ("actor_id","occurred_at" DESC NULLS FIRST,"id" DESC NULLS FIRST);--> statement-breakpoint
CREATE INDEX "activity_request" ON "activity" USING btree ("request_id");--> statement-breakpoint
CREATE INDEX "activity_of_shape" ON "activity" USING btree (activity_shape_of(type, issuer, upstream, action, method, outcome, reason),"occurred_at" DESC NULLS FIRST,"id" DESC NULLS FIRST);--> statement-breakpoint
CREATE INDEX "activity_uncommon" ON "activity" USING btree ("occurred_at" DESC NULLS FIRST,"id" DESC NULLS FIRST) WHERE not (type = 'credential_broker' and action = 'inject' and outcome = 'success');--> statement-breakpoint
CREATE INDEX "activity_user_uncommon" ON "activity" USING btree ("user_id",activity_shape_of(type, issuer, upstream, action, method, outcome, reason),"occurred_at" DESC NULLS FIRST,"id" DESC NULLS FIRST) WHERE not (type = 'credential_broker' and action = 'inject' and outcome = 'success');
--> statement-breakpoint
INSERT INTO "activity_shape" SELECT DISTINCT ON (1) activity_shape_of("type", "issuer", "upstream", "action", "method", "outcome", "reason"), "type", "issuer", "upstream", "action", "method", "outcome", "reason" FROM "activity";
--> statement-breakpoint
-- In order, so that two statements with the same new shapes do not wait for each other in a circle.
CREATE FUNCTION "activity_shape_seen"() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO "activity_shape" ("shape", "type", "issuer", "upstream", "action", "method", "outcome", "reason")
	SELECT DISTINCT ON ("shape") * FROM (
		SELECT activity_shape_of("type", "issuer", "upstream", "action", "method", "outcome", "reason") AS "shape", "type", "issuer", "upstream", "action", "method", "outcome", "reason" FROM "seen"
	) AS "of_rows"
	WHERE NOT EXISTS (SELECT FROM "activity_shape" AS "known" WHERE "known"."shape" = "of_rows"."shape")
	ORDER BY "shape"
	ON CONFLICT DO NOTHING;
	RETURN NULL;
END $$;
--> statement-breakpoint
CREATE TRIGGER "activity_shape_seen" AFTER INSERT ON "activity"
REFERENCING NEW TABLE AS "seen" FOR EACH STATEMENT EXECUTE FUNCTION "activity_shape_seen"();
--> statement-breakpoint
CREATE TRIGGER "activity_shape_changed" AFTER UPDATE ON "activity"
REFERENCING NEW TABLE AS "seen" FOR EACH STATEMENT EXECUTE FUNCTION "activity_shape_seen"();
