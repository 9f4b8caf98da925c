"""How the page looks, on light and on dark screens, on wide ones, on phones and on paper."""

STYLE = """\
:root { color-scheme: light dark;
  --page: #ffffff; --ink: #1f2933; --soft: #616e7c; --faint: #e4e7eb; --edge: #cbd2d9;
  --compute: #2563eb; --prep: #ea7317; --fetch: #c93a3a; --copied: #7b8794; --stage: #9aa5b1;
  --good: #12805c; --why: #c2560a; }
@media (prefers-color-scheme: dark) { :root {
  --page: #14181d; --ink: #e6eaee; --soft: #9aa5b1; --faint: #262d35; --edge: #3e4c59;
  --compute: #6a9bff; --prep: #f59347; --fetch: #f07171; --copied: #8b97a4; --stage: #66727f;
  --good: #45c496; --why: #f59347; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
.over { margin: 0; color: var(--soft); font-size: .875rem; overflow-wrap: anywhere; }
h1 { margin: .5rem 0 0; font-size: 1.5rem; line-height: 1.35; font-weight: 600; text-wrap: balance; }
h1 .compute { color: var(--compute); } h1 .prep { color: var(--why); } h1 .fetch { color: var(--fetch); }
h2 { margin: 0 0 .75rem; font-size: 1.0625rem; font-weight: 600; }
section { margin-top: 2.5rem; }
p { max-width: 44rem; margin: .5rem 0; }
small { display: block; font-size: .8125rem; line-height: 1.35; font-weight: 400; overflow-wrap: anywhere; }
code { font: .9em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.soft, .value small, caption { color: var(--soft); }
.note { font-size: .875rem; }
svg { display: block; overflow: visible; }
svg text { font-size: 12px; fill: var(--soft); }
.row { display: grid; grid-template-columns: 15rem 1fr 6.5rem; column-gap: 1rem; align-items: center;
  border-top: 1px solid var(--faint); }
.row.axis { border-top: 1px solid var(--edge); }
.row.axis .strip { grid-column: 2; }
.row.axis .value { font-size: .75rem; align-self: start; padding-top: .2rem; }
.name { padding: .35rem 0; }
.value { text-align: right; padding: .35rem 0; font-variant-numeric: tabular-nums; }
.strip { align-self: stretch; display: grid; align-items: center; }
.strip svg { min-height: 100%; }
.marks { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; font-size: .875rem; color: var(--soft);
  max-width: none; }
.marks i { display: inline-block; vertical-align: -.1em; margin-right: .45rem; }
i.mark { width: 0; height: .95em; border-left: 2px solid var(--ink); }
i.mark.faint { border-left: 2px dashed var(--compute); }
i.tail { width: 1.1em; height: 0; border-top: 2px solid var(--soft); vertical-align: .25em; }
i.dot { width: .7em; height: .7em; border-radius: 50%; background: var(--soft);
  border: 2px solid var(--soft); vertical-align: 0; }
i.dot.hollow { background: var(--page); }
i.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .5rem; }
.key.compute { background: var(--compute); } .key.prep { background: var(--prep); }
.key.fetch { background: var(--fetch); } .key.copied { background: var(--copied); }
rect.compute, rect.step { fill: var(--compute); } rect.prep, rect.bound { fill: var(--prep); }
rect.fetch { fill: var(--fetch); } rect.copied { fill: var(--copied); } rect.stage { fill: var(--stage); }
rect.track { fill: var(--faint); }
.whole rect { stroke: var(--page); stroke-width: 2px; }
line.mark { stroke: var(--ink); stroke-width: 2px; }
line.faint { stroke: var(--compute); stroke-width: 1.5px; stroke-dasharray: 4 3; }
line.tick { stroke: var(--edge); }
line.tail { stroke: var(--soft); stroke-width: 2px; }
line.range { stroke-width: 4px; stroke-linecap: round; opacity: .45; }
line.range.good { stroke: var(--good); } line.range.plain { stroke: var(--soft); }
circle.dot { stroke-width: 2px; } circle.good { fill: var(--good); stroke: var(--good); }
circle.plain { fill: var(--soft); stroke: var(--soft); } circle.hollow { fill: var(--page); }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(17rem, 100%), 1fr)); gap: 1.5rem; }
figure { margin: 0; display: flex; flex-direction: column; justify-content: space-between; }
figcaption { font-size: .875rem; margin-bottom: .4rem; font-variant-numeric: tabular-nums; }
.plot { display: grid; grid-template-columns: auto 1fr; gap: .5rem; }
.scale { display: flex; flex-direction: column; justify-content: space-between; text-align: right;
  font-size: .75rem; line-height: 1; color: var(--soft); white-space: nowrap; }
svg.steps { width: 100%; height: 7rem; overflow: hidden; border-left: 1px solid var(--edge);
  border-bottom: 1px solid var(--edge); }
svg.steps polyline { fill: none; stroke-width: 1.5px; vector-effect: non-scaling-stroke; stroke-linejoin: round; }
polyline.compute { stroke: var(--compute); } polyline.prep { stroke: var(--prep); }
polyline.fetch { stroke: var(--fetch); } polyline.copied { stroke: var(--copied); }
polyline.stage { stroke: var(--stage); }
line.level { stroke: var(--soft); stroke-dasharray: 4 4; vector-effect: non-scaling-stroke; }
.scroll { overflow-x: auto; margin-top: .75rem; }
table { border-collapse: collapse; font-size: .9375rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 400; }
thead th { color: var(--soft); font-size: .8125rem; }
th, td { padding: .3rem .9rem .3rem 0; border-top: 1px solid var(--faint); vertical-align: top; }
thead th { border-top: 0; }
tfoot th, tfoot td { border-top: 1px solid var(--edge); font-weight: 600; }
tfoot .soft { font-weight: 400; }
.figures th, .figures td, .parts th, .parts td.number { white-space: nowrap; }
.number { text-align: right; }
.figures { min-width: 40rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1.5rem;
  align-items: start; }
.facts th { color: var(--soft); white-space: nowrap; } .facts td { overflow-wrap: anywhere; }
caption { text-align: left; padding-bottom: .25rem; }
@media (max-width: 42rem) {
  h1 { font-size: 1.25rem; }
  .row { grid-template-columns: 1fr auto; padding-bottom: .3rem; }
  .row .strip { grid-column: 1 / -1; grid-row: 2; }
  .row.axis .strip { grid-column: 1 / -1; grid-row: 1; }
  .row.axis .value { grid-column: 1 / -1; padding: 0; }
  .parts th, .parts td { padding-right: .5rem; }
  .parts { font-size: .875rem; }
  .parts .meaning { display: none; }
}
@media print { section { break-inside: avoid; } }
"""
