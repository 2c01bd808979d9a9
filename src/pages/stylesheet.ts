import { asset } from './asset.ts'

const text = `
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --text: #1b2330; --soft: #5a6577; --line: #dde2ea;
  --accent: #2350c8; --accent-text: #ffffff; --good: #11683c; --good-back: #e3f5ea;
  --bad: #a3201d; --bad-back: #fce9e8; --warn: #7a4b00; --warn-back: #fdf1d8; --grey-back: #eceff4;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #11151c; --card: #1a202a; --text: #e6eaf1; --soft: #9aa6b8; --line: #2c3542;
    --accent: #8fb0ff; --accent-text: #0d1424; --good: #7fdba6; --good-back: #143524;
    --bad: #ffa29d; --bad-back: #411b1b; --warn: #f3cb7d; --warn-back: #3a2c10; --grey-back: #262e3a;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
a { color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; border-radius: 4px; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .5rem; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 0; }
h3 { font-size: 1rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
code { font: .875em/1.4 ui-monospace, SFMono-Regular, Menlo, monospace; overflow-wrap: anywhere; }
.skip { position: absolute; left: -999px; }
.skip:focus { left: .5rem; top: .5rem; background: var(--card); padding: .5rem; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.muted { color: var(--soft); font-size: .9rem; }
.lead { color: var(--soft); margin: 0 0 1.5rem; }
.bar { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; align-items: center; padding: .75rem 1.5rem; background: var(--card); border-bottom: 1px solid var(--line); }
.brand { font-weight: 700; color: var(--text); text-decoration: none; letter-spacing: -.02em; }
.bar nav { display: flex; gap: 1rem; }
.bar nav a { text-decoration: none; }
.who { margin-left: auto; display: flex; gap: .75rem; align-items: center; color: var(--soft); font-size: .9rem; overflow-wrap: anywhere; }
.who form { margin: 0; }
main { margin: 0 auto; padding: 2rem 1.5rem 4rem; }
main.narrow { max-width: 46rem; }
main.wide { max-width: 80rem; }
.cards { list-style: none; margin: 0; padding: 0; display: grid; gap: 1rem; }
.card, .panel { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1.25rem 1.5rem; }
.panel { padding: 2rem; }
.card-head { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: center; justify-content: space-between; }
.status, .outcome { border-radius: 999px; padding: .1rem .7rem; font-size: .85rem; font-weight: 600; background: var(--grey-back); color: var(--soft); white-space: nowrap; }
.status.connected, .outcome.success { background: var(--good-back); color: var(--good); }
.status.reconnect_required, .status.expired { background: var(--warn-back); color: var(--warn); }
.status.unavailable, .outcome.failure { background: var(--bad-back); color: var(--bad); }
.reason { margin: .5rem 0 0; }
dl { margin: .75rem 0; display: grid; gap: .4rem; }
dl > div { display: grid; grid-template-columns: 9rem 1fr; gap: 1rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.scopes { list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: .35rem; }
.scopes code { background: var(--grey-back); border-radius: 6px; padding: .1rem .45rem; }
.actions { display: flex; flex-wrap: wrap; gap: .6rem; align-items: center; margin: 1rem 0 0; }
.actions form { margin: 0; }
button, .button { display: inline-block; font: inherit; font-weight: 600; line-height: 1.3; border-radius: 8px; border: 1px solid transparent; padding: .5rem 1rem; cursor: pointer; text-decoration: none; }
.first { background: var(--accent); color: var(--accent-text); }
.second { background: transparent; color: var(--text); border-color: var(--line); }
.danger { background: transparent; color: var(--bad); border-color: var(--line); }
.quiet { background: transparent; color: var(--accent); padding: .2rem .4rem; font-weight: 400; }
button:hover, .button:hover { filter: brightness(1.08); }
.second:hover, .danger:hover { background: var(--grey-back); }
.notice { border-radius: 10px; padding: .75rem 1rem; margin: 0 0 1.25rem; }
.notice.good { background: var(--good-back); color: var(--good); }
.notice.bad { background: var(--bad-back); color: var(--bad); }
.empty { background: var(--card); border: 1px dashed var(--line); border-radius: 12px; padding: 2rem; text-align: center; color: var(--soft); }
.filters { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(10.5rem, 100% / 2 - .75rem), 1fr)); gap: .75rem; background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1rem; margin: 1rem 0 1.5rem; }
.filters label { display: grid; gap: .25rem; font-size: .85rem; color: var(--soft); }
.key { display: flex; flex-wrap: wrap; gap: .5rem .75rem; align-items: end; }
.key label { display: grid; gap: .25rem; font-size: .85rem; color: var(--soft); flex: 1 1 14rem; }
.filters .actions { grid-column: 1 / -1; margin: 0; }
input, select { font: inherit; font-size: .95rem; width: 100%; min-width: 0; color: var(--text); background: var(--page); border: 1px solid var(--line); border-radius: 8px; padding: .4rem .5rem; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .5rem .75rem; border-bottom: 1px solid var(--line); }
.scroll td, .scroll th { white-space: nowrap; }
tbody tr:last-child td { border-bottom: 0; }
th { color: var(--soft); font-weight: 600; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
time { font-variant-numeric: tabular-nums; }
.contents ul { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; }
section { margin-bottom: 2.5rem; }
section > h2 { margin: 2rem 0 1rem; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1rem 1.25rem; margin-bottom: 1rem; overflow-x: auto; }
article table { margin-top: .75rem; }
article th:last-child { min-width: 18rem; }
#problems th:last-child { min-width: 0; }
#problems td p { margin: .25rem 0 0; }
.method { display: inline-block; min-width: 3.5rem; font-size: .8rem; font-weight: 700; color: var(--accent); }
article:target, tr:target { outline: 2px solid var(--accent); outline-offset: 4px; border-radius: 6px; }
@media (max-width: 34rem) {
  dl > div { grid-template-columns: 1fr; gap: 0; }
  main { padding: 1.25rem 1rem 3rem; }
  .panel { padding: 1.25rem; }
}
`

/** The one style sheet: light and dark, no font and no picture from anywhere. */
export const stylesheet = asset('onbehalf', 'css', 'text/css; charset=utf-8', text)
