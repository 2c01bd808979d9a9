import { html } from 'hono/html'
import {
  auditActions,
  auditMethods,
  auditOutcomes,
  auditReasons,
  auditTypes,
} from '../core/audit-event.ts'
import type { ActivityRecord } from '../core/ports/activity-store.ts'
import type { ActivityPageView } from '../core/ports/pages.ts'
import { layout } from './layout.ts'
import type { Markup } from './markup.ts'

/** The latest records of the activity log, for admins. */
export function activityPage(view: ActivityPageView): Promise<string> {
  const { viewer, records, nextQuery, exportQuery, refusedField } = view
  return layout({
    title: 'Activity',
    viewer,
    wide: true,
    main: html`<h1>Activity</h1>
${filterForm(view)}
${
  refusedField === undefined
    ? html``
    : html`<p class="notice bad" role="alert">The filter <code>${refusedField}</code> is not as it should be.${expected(refusedField)}</p>`
}
${refusedField !== undefined ? html`` : records.length === 0 ? html`<p class="empty">No record fits.</p>` : table(records)}
${actions(nextQuery, exportQuery)}`,
  })
}

/** Fields are written by hand; of what each takes, these are not to be guessed. */
function expected(field: string): string {
  if (field === 'since' || field === 'until') {
    return ' Write a date or a time in UTC, such as 2026-03-01 or 2026-03-01T09:00:00Z.'
  }
  return field === 'request_id' ? ' Write the whole UUID.' : ''
}

function actions(nextQuery: string | undefined, exportQuery: string | undefined): Markup {
  if (exportQuery === undefined) return html``
  const next =
    nextQuery === undefined
      ? html``
      : html`<a class="button second" href="/activity?${nextQuery}">Older records</a> `
  return html`<p class="actions">${next}<a class="button second" href="/api/v1/activity/export?${exportQuery}">Export all that fit (CSV)</a></p>`
}

function filterForm({ filter }: ActivityPageView): Markup {
  return html`<form method="get" action="/activity" class="filters">
${textField('user_id', 'Person', filter.userId)}
${textField('issuer', 'Issuer', filter.issuer)}
${textField('upstream', 'Upstream', filter.upstream)}
${textField('actor_id', 'Actor', filter.actorId)}
${textField('request_id', 'Request', filter.requestId)}
${selectField('type', 'Type', auditTypes, filter.type)}
${selectField('action', 'Action', auditActions, filter.action)}
${selectField('method', 'Method', auditMethods, filter.method)}
${selectField('outcome', 'Outcome', auditOutcomes, filter.outcome)}
${selectField('reason', 'Reason', auditReasons, filter.reason)}
${textField('since', 'Since', filter.since, '2026-03-01')}
${textField('until', 'Until', filter.until, '2026-03-01T09:00:00Z')}
<div class="actions"><button type="submit" class="first">Search</button> <a class="button second" href="/activity">Clear</a></div>
</form>`
}

function textField(
  name: string,
  label: string,
  value: readonly string[] | Date | undefined,
  example = '',
): Markup {
  const shown = value instanceof Date ? value.toISOString() : (value ?? []).join(',')
  return html`<label>${label}<input name="${name}" value="${shown}" placeholder="${example}" autocomplete="off" spellcheck="false"></label>`
}

function selectField(
  name: string,
  label: string,
  choices: readonly string[],
  chosen: readonly string[] | undefined,
): Markup {
  const options = choices.map((choice) =>
    chosen?.includes(choice) === true
      ? html`<option selected>${choice}</option>`
      : html`<option>${choice}</option>`,
  )
  return html`<label>${label}<select name="${name}"><option value="">any</option>${options}</select></label>`
}

function table(records: readonly ActivityRecord[]): Markup {
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Records"><table>
<thead><tr><th scope="col">Time (UTC)</th><th scope="col">Person</th><th scope="col">Actor</th><th scope="col">Upstream</th><th scope="col">Action</th><th scope="col">Method</th><th scope="col">Outcome</th><th scope="col">Reason</th><th scope="col" class="number">ms</th><th scope="col">Request</th></tr></thead>
<tbody>${records.map(tableRow)}</tbody>
</table></div>`
}

function tableRow(record: ActivityRecord): Markup {
  const { actor } = record
  return html`<tr>
<td>${instantWithSeconds(record.occurredAt)}</td>
<td title="${record.issuer ?? ''}">${record.userId ?? '–'}</td>
<td>${actor.kind === 'user' && actor.id === record.userId ? 'themselves' : `${actor.kind} ${actor.id}`}</td>
<td>${record.upstream ?? '–'}</td>
<td>${record.action}</td>
<td>${record.method}</td>
<td><span class="outcome ${record.outcome}">${record.outcome}</span></td>
<td>${record.reason ?? '–'}</td>
<td class="number">${record.durationMs.toFixed(0)}</td>
<td><a href="/activity?request_id=${record.requestId}" title="${record.requestId}"><code>${record.requestId.slice(0, 8)}</code></a></td>
</tr>`
}

function instantWithSeconds(at: Date): Markup {
  const iso = at.toISOString()
  return html`<time datetime="${iso}">${iso.slice(0, 10)} ${iso.slice(11, 23)}</time>`
}
