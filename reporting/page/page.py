"""One page with everything in it: no other file, no network.

Knows nothing about what sections say.
"""

from collections.abc import Sequence
from html import escape

from .markup import Section
from .svg import DARK, FONT, LIGHT, chart_style

_GROUND_LIGHT, _GROUND_DARK = "#ffffff", "#17181a"
_LAYOUT = f"""
:root{{color-scheme:light dark;--ink:#1b1b1b;--faint:#5f5f5f;--line:#d8d8d8;--ground:{_GROUND_LIGHT};--soft:#f4f4f2}}
body{{margin:0;background:var(--ground);color:var(--ink);font:16px/1.5 {FONT};font-variant-numeric:tabular-nums}}
header,main,footer{{max-width:62rem;margin:0 auto;padding:0 1rem}}
header{{padding-top:1.5rem}}h1{{font-size:1.5rem;margin:0 0 .2rem;overflow-wrap:anywhere}}
h2{{font-size:1.15rem;margin:2.2rem 0 .6rem;border-top:1px solid var(--line);padding-top:1rem}}
nav a{{margin-right:1rem;color:inherit}}nav{{margin:.5rem 0}}
p{{margin:.5rem 0;max-width:48rem;overflow-wrap:anywhere}}
.note,figcaption,.caption{{color:var(--faint);font-size:.875rem}}
.verdict{{font-weight:600}}.missing{{border-left:4px solid var(--line);padding:.3rem .8rem}}
code{{font:.9em ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere}}
.cards{{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:.5rem;margin:0 0 1rem}}
.cards>div{{background:var(--soft);padding:.6rem .7rem;border-radius:4px}}.cards dd{{margin:0}}
.cards dt,.cards span{{color:var(--faint);font-size:.8125rem;line-height:1.3;display:block}}
.cards b{{font-size:1.2rem;font-weight:600;white-space:nowrap}}
.scroll{{overflow-x:auto}}.scroll:focus-visible{{outline:2px solid var(--faint)}}
figure{{margin:1rem 0}}figure svg{{display:block}}
table{{border-collapse:collapse;margin:.2rem 0 .8rem;font-size:.875rem}}.caption{{margin-top:1.2rem}}
th,td{{text-align:left;padding:.2rem .9rem .2rem 0;vertical-align:top;border-bottom:1px solid var(--line)}}
th{{font-weight:600;vertical-align:bottom}}.number{{text-align:right;white-space:nowrap}}th.number{{white-space:normal}}
.provenance td:last-child{{overflow-wrap:anywhere}}.moves td:nth-child(2){{white-space:nowrap}}
.limits td{{min-width:5.5rem}}
.details{{min-height:1.5em;font-size:.875rem;margin:0 0 1rem}}
.cell[tabindex]:focus{{outline:none}}
.cell[tabindex]:focus rect,.cell[tabindex]:hover rect{{stroke:var(--ink);stroke-width:2.5}}
footer{{color:var(--faint);font-size:.875rem;padding-bottom:2rem}}
@media (prefers-color-scheme:dark){{
:root{{--ink:#ececec;--faint:#a9a9a9;--line:#3b3d40;--ground:{_GROUND_DARK};--soft:#232528}}}}
@media (max-width:40rem){{body{{font-size:15px}}h1{{font-size:1.25rem}}}}
@media print{{nav{{display:none}}.scroll{{overflow:visible}}}}
"""
# Arrow keys go from cell to cell of the heat map; what a cell says is repeated below it. Without it, titles remain.
_SCRIPT = """
const cells=[...document.querySelectorAll('.allocation .cell[tabindex]')];
const shown=document.querySelector('.details');
const place=c=>{const r=c.querySelector('rect');return [+r.getAttribute('x'),+r.getAttribute('y')]};
const tell=c=>{shown.textContent=c.querySelector('title').textContent};
if(cells.length)cells[0].setAttribute('tabindex','0');
const nearest=(c,dx,dy)=>{const [x,y]=place(c);let best=null,least=Infinity;
for(const o of cells){const [a,b]=place(o);const along=(a-x)*dx+(b-y)*dy,across=Math.abs((a-x)*dy)+Math.abs((b-y)*dx);
if(along>0&&along+4*across<least){best=o;least=along+4*across}}return best};
for(const c of cells){c.addEventListener('focus',()=>tell(c));c.addEventListener('mouseenter',()=>tell(c));
c.addEventListener('keydown',e=>{const step={ArrowRight:[1,0],ArrowLeft:[-1,0],ArrowDown:[0,1],ArrowUp:[0,-1]}[e.key];
if(!step)return;e.preventDefault();const next=nearest(c,...step);
if(next){c.setAttribute('tabindex','-1');next.setAttribute('tabindex','0');next.focus()}})}
"""


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Put sections on a page.

    Args:
        title: of the page.
        subtitle: below it.
        sections: in their order.

    Returns:
        A whole HTML document.
    """
    links = "".join(f'<a href="#{section.name}">{escape(section.title)}</a> ' for section in sections)
    body = "".join(
        f'<section id="{section.name}"><h2>{escape(section.title)}</h2>{section.html}</section>\n'
        for section in sections
    )
    dark = chart_style(DARK)
    style = f"{_LAYOUT}{chart_style(LIGHT)}\n@media (prefers-color-scheme:dark){{{dark}}}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=machine-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n"
        f"<body><header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p><nav>{links}</nav></header>\n"
        f"<main>{body}</main><footer><p>Predicted numbers say so; all others were counted or measured. Nothing on this "
        f"page is loaded from elsewhere.</p></footer><script>{_SCRIPT}</script></body></html>\n"
    )
