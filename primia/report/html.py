"""Pages: self-contained HTML, every value escaped."""

from __future__ import annotations

from base64 import b64encode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from primia.privacy.rounding import lower, upper
from primia.report import format as fmt
from primia.untrusted.shown import visible


def render(template: str, **values: object) -> str:
    """Fill a template of ``primia/report/templates``; no value can bring markup of its own, or turn the direction of what follows."""
    environment = Environment(
        loader=PackageLoader("primia.report"),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (fmt.score, fmt.percent, fmt.rate, fmt.count, fmt.size, fmt.duration, fmt.plural)
    environment.filters |= {function.__name__: function for function in filters} | {"upper_bound": upper, "lower_bound": lower}
    return environment.get_template(template).render(values)


def _visible(value: object) -> object:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def image_source(svg: str) -> str:
    """A picture as the source of an ``img``: kept apart from the page, so that nothing in it can act there."""
    return f"data:image/svg+xml;base64,{b64encode(svg.encode()).decode()}"
