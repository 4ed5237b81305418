"""Colours, and the way from a matplotlib figure to a file or into a page; used by every drawing and plot.

A colour is a name here. A figure saved to a file has the light value; on the page it becomes a CSS variable, so that
the same figure is legible on a light and on a dark screen. Matplotlib is imported when something is drawn: pages whose
parts have no figure, and commands that draw nothing, start without it.
"""

import base64
import functools
import io
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable
from html import escape
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, get_args

import jinja2
from markupsafe import Markup

from medarts.metrics import Task, metrics_of
from medarts.reporting.tables import Content
from medarts.system.names import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

P = ParamSpec("P")
R = TypeVar("R")

# name -> (on a light ground, on a dark ground); contrast with the ground is at least 4.5 for everything but faint.
PALETTE: dict[str, tuple[str, str]] = {
    "ink": ("#1b2430", "#e6eaf0"),
    "muted": ("#5b6675", "#a3adba"),
    "faint": ("#cbd2da", "#3b4552"),
    "surface": ("#ffffff", "#151a21"),
    "blue": ("#1f6fb4", "#62aeea"),
    "green": ("#15803d", "#4fc47f"),
    "orange": ("#c2540a", "#f2955c"),
    "purple": ("#7a4fb5", "#b897ec"),
    "teal": ("#0c7a8a", "#4fc3d4"),
    "red": ("#b42d3a", "#f27f88"),
    "gold": ("#8a6a00", "#d8b548"),
    "pink": ("#b13a80", "#ee88bb"),
    "brown": ("#7b5741", "#c9a58d"),
    "slate": ("#56637a", "#93a6c4"),
}

INK, MUTED, FAINT, SURFACE = (PALETTE[name][0] for name in ("ink", "muted", "faint", "surface"))
CYCLE = tuple(PALETTE[name][0] for name in list(PALETTE)[4:])

# What these words name keeps its colour in every figure: kinds of cells, and operations without down_ and up_. Anything
# else, such as an operation that a user registered, takes a colour that is left.
_COLORS = {
    "down": "blue",
    "normal": "green",
    "up": "orange",
    "none": "slate",
    "identity": "brown",
    "skip_connect": "brown",
    "cweight": "purple",
    "dil_conv": "teal",
    "dep_conv": "green",
    "shuffle_conv": "orange",
    "conv": "blue",
    "avg_pool": "gold",
    "max_pool": "pink",
    "avg_pool_3x3": "gold",
    "max_pool_3x3": "pink",
    "sep_conv_3x3": "green",
    "sep_conv_5x5": "blue",
    "dil_conv_3x3": "teal",
    "dil_conv_5x5": "purple",
}

_RC: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 8.5,
    "axes.edgecolor": MUTED,
    "axes.facecolor": SURFACE,
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8.5,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "figure.facecolor": SURFACE,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.7,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.color": MUTED,
    "ytick.labelsize": 8,
}

_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of what follows them, beyond the name that they stand in."""

# A figure may shrink on a narrow screen to this part of its size; then its box scrolls.
_SMALLEST = 0.8


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Makes a function that draws do so in the style of the house, whatever the user's matplotlib settings are."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib as mpl

        with mpl.rc_context(), warnings.catch_warnings():
            # On a page the browser has the letters; in a file a box stands for one that the font lacks.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            mpl.rcdefaults()
            mpl.rcParams.update(_RC)
            return draw(*args, **kwargs)

    return wrapper


def colors_of(names: Iterable[str]) -> dict[str, str]:
    """Returns a colour for each name, the same in every figure; the down and up forms of an operation share one.

    >>> colors = colors_of(["conv", "down_conv", "mine"])
    >>> colors["conv"] == colors["down_conv"] != colors["mine"]
    True
    """
    bases = {name: name if name in _COLORS else name.removeprefix("down_").removeprefix("up_") for name in names}
    known = {base: PALETTE[_COLORS[base]][0] for base in bases.values() if base in _COLORS}
    unknown = list(dict.fromkeys(base for base in bases.values() if base not in known))
    free = [color for color in CYCLE if color not in known.values()] or list(CYCLE)
    chosen = known | {base: free[index % len(free)] for index, base in enumerate(unknown)}
    return {name: chosen[base] for name, base in bases.items()}


def legible(text: str) -> str:
    r"""Returns a text as pages and figures can show it: control characters and undecodable bytes become escapes.

    Line breaks and tabs stay, and so do spaces of any width, unlike in what `printable` makes for a terminal.

    >>> legible("a\x00\nb\udce9")
    'a\\x00\nb\\xe9'
    """
    return "".join(letter if _is_legible(letter) else printable(letter) for letter in text)


def _is_legible(letter: str) -> bool:
    return letter in "\n\t" or (unicodedata.category(letter) not in {"Cc", "Cs"} and letter not in _TURNING)


def _make_legible(figure: "Figure") -> None:
    """Makes all texts of a figure legible but the labels of ticks, which an axis writes anew; see `legible`."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_text(legible(text.get_text()))


@styled
def save(figure: "Figure", target: Any, *, file_format: str) -> None:
    """Writes a figure to a path or an open file; equal figures give equal bytes.

    Args:
        target: a path, or a file open for bytes.
    """
    import matplotlib as mpl

    mpl.rcParams["svg.hashsalt"] = "medarts"
    _make_legible(figure)
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(file_format, {})
    figure.savefig(target, format=file_format, dpi=200, metadata=dates)


def _on_the_page(tag: re.Match[str]) -> str:
    """Returns a tag of an SVG with the colours and the font of the page; texts are left as they are."""
    # Numbered ids repeat from figure to figure, and nothing refers to them.
    found = re.sub(r' id="[A-Za-z0-9]+_\d+"', "", tag[0]).replace("xlink:href", "href")
    found = re.sub(r"font: ([^;\"]*?\d[\d.]*px) [^;\"]*", r"font: \1 var(--sans)", found)
    for name, (light, _) in PALETTE.items():
        found = found.replace(light, f"var(--{name})")
    return found


@styled
def inline_svg(figure: "Figure", label: str) -> Markup:
    """Returns a figure as SVG to stand inside an HTML page: CSS colours, the page's font, no addresses.

    Args:
        label: what it shows, for people who hear the page; no two figures of a page share one.
    """
    import matplotlib as mpl

    mpl.rcParams["svg.hashsalt"] = legible(label)
    _make_legible(figure)
    empty = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata=empty)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for pattern in (r"<defs>\s*<style.*?</style>\s*</defs>", r"<!--.*?-->", r'\s+xmlns(:\w+)?="[^"]*"'):
        svg = re.sub(pattern, "", svg, flags=re.DOTALL)
    svg = re.sub("<[^>]*>", _on_the_page, svg)
    width = figure.get_figwidth() * 96
    size = f"width:100%;min-width:{width * _SMALLEST:.0f}px;max-width:{width:.0f}px"
    attributes = f'role="img" aria-label="{escape(legible(label))}" style="{size}"'
    return Markup(re.sub(r'<svg width="[^"]*" height="[^"]*"', lambda _: f"<svg {attributes}", svg, count=1).strip())


def inline_png(figure: "Figure") -> str:
    """Returns a figure as the address of a picture that holds the picture itself."""
    buffer = io.BytesIO()
    save(figure, buffer, file_format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def css_variables(ground: int) -> str:
    """Returns the palette as CSS declarations; ``ground`` 0 is light, 1 is dark."""
    return " ".join(f"--{name}: {values[ground]};" for name, values in PALETTE.items())


def render(template: str, content: Content) -> str:
    """Returns a page as HTML.

    Args:
        content: all that it shows, with the ``title`` of the page; text is escaped unless it is `Markup`.
    """
    # The glossary itself explains those that come with medarts.
    all_metrics = (one for task in get_args(Task) for one in metrics_of(task))
    own_metrics = [one for one in all_metrics if one.definition and not one.function.__module__.startswith("medarts.")]
    colors = {"light": Markup(css_variables(0)), "dark": Markup(css_variables(1))}
    return _templates().get_template(template).render({"own_metrics": own_metrics, **content, **colors})


@functools.cache
def _templates() -> jinja2.Environment:
    """Returns the templates of pages, each of which is compiled once for all pages."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("medarts.reporting", "."),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
    )


def _shown(value: object) -> object:
    return legible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
