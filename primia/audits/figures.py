"""Pictures of an audit's page: images as they are, and curves whose axes show the corner that matters."""

from __future__ import annotations

import io
from base64 import b64encode

import numpy as np
from PIL import Image
from torch import Tensor

from primia.audits.membership_audit import MembershipAudit
from primia.report.figures import COLOURS, plain_numbers, svg_figure

_DASHES = ("-", "--", "-.")
_SMALLEST_SIDE = 160


def picture_source(picture: Tensor) -> str:
    """An image (1, C, H, W) of values 0 to 1 as the source of an ``img``: PNG, enlarged by whole pixels, so that it is not smoothed."""
    values = (picture[0].clamp(0.0, 1.0) * 255).round().byte().numpy()
    image = Image.fromarray(values[0] if len(values) == 1 else np.moveaxis(values, 0, -1))
    factor = max(1, -(-_SMALLEST_SIDE // image.width))
    png = io.BytesIO()
    image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST).save(png, "PNG")
    return f"data:image/png;base64,{b64encode(png.getvalue()).decode()}"


def membership_curves(audit: MembershipAudit) -> str:
    """True-positive against false-positive rate of each attack on logarithmic axes (Carlini et al., IEEE S&P 2022, figure 1), as SVG."""
    smallest = 10 ** np.floor(np.log10(1.0 / max(audit.members, audit.others)))
    with svg_figure(5.2, 4.2) as (figure, svg):
        axes = figure.subplots()
        axes.plot([smallest, 1.0], [smallest, 1.0], color="#9aa5b1", linewidth=1, linestyle=(0, (2, 2)), label="guessing")
        for attack, colour, dash in zip(audit.attacks, COLOURS, _DASHES, strict=False):
            rates = np.maximum(attack.roc.false_positive_rate, smallest), np.maximum(attack.roc.true_positive_rate, smallest)
            axes.step(*rates, where="post", color=colour, linestyle=dash, linewidth=1.6, label=f"{attack.name}, area {attack.area:.3f}")
        axes.set(
            xscale="log",
            yscale="log",
            xlim=(smallest, 1.0),
            ylim=(smallest, 1.0),
            xlabel="false-positive rate",
            ylabel="true-positive rate",
        )
        for axis in (axes.xaxis, axes.yaxis):
            plain_numbers(axis)
        axes.legend(loc="upper left")
    return svg.getvalue()
