"""Pages made of the templates of this folder, all of which extend ``base.html``."""

from typing import get_args

import jinja2
from markupsafe import Markup

from medarts.metrics import Task, metrics_of
from medarts.reporting.content import Content
from medarts.reporting.style import css_variables, legible


def render(template: str, content: Content) -> str:
    """Returns a page as HTML.

    Args:
        content: all that it shows, with the ``title`` of the page; text is escaped unless it is `Markup`.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("medarts.reporting", "."),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
    )
    # The glossary itself explains those that come with medarts.
    all_metrics = (one for task in get_args(Task) for one in metrics_of(task))
    own_metrics = [one for one in all_metrics if one.definition and not one.function.__module__.startswith("medarts.")]
    colors = {"light": Markup(css_variables(0)), "dark": Markup(css_variables(1))}
    return environment.get_template(template).render({"own_metrics": own_metrics, **content, **colors})


def _shown(value: object) -> object:
    return legible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
