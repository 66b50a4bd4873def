"""SRDD: what a number format does to each layer of a model, and what that makes of the noise."""

from __future__ import annotations

import streamlit as st
from sqlalchemy import Engine

from dashboards import figures
from dashboards.page import chart, show
from db import reads
from orchestrator.aims import preset_multipliers
from orchestrator.report.document import table


def draw(engine: Engine) -> None:
    st.subheader("Layer scans (SRDD)")
    scans = {run_id: (label, data) for run_id, label, data in reads.scans(engine)}
    if not scans:
        st.info(
            "No scan is PROVEN yet: `aqn scan MODEL` makes one, and a sweep with `srdd:` makes its own.",
            icon=":material/layers:",
        )
        return
    asked = st.query_params.get("scan")
    known = list(scans)
    name = st.selectbox(
        "scan", known, index=known.index(asked) if asked in scans else 0,
        format_func=lambda run_id: f"{scans[run_id][0]} · {run_id[:10]}",
    )  # fmt: skip
    if name != asked:
        st.query_params["scan"] = name
    _, data = scans[name]
    st.caption(f"Output activations, mean of {data['prompts']} questions: mean |e|/|x|, and signal to noise.")
    chart(figures.scan(data["layers"]), "scan")
    layers = data["layers"]
    aims = {name: values for name, values in preset_multipliers(layers["relative_error"]).items() if values is not None}
    if aims:
        st.subheader("σ's multiplier by layer, as each preset of srdd aims it")
        chart(figures.multipliers(layers["layer"], aims), "aims")
    columns = ("layer", "error %", "SQNR dB", "dead %", "saturated %", *aims)
    rows = [
        (
            str(layer), f"{100 * layers['relative_error'][row]:.2f}",
            "no error" if layers["sqnr_db"][row] is None else f"{layers['sqnr_db'][row]:.2f}",
            f"{100 * layers['deadzone'][row]:.2f}", f"{100 * layers['saturation'][row]:.2f}",
            *(f"{values[row]:.3g}" for values in aims.values()),
        )
        for row, layer in enumerate(layers["layer"])
    ]  # fmt: skip
    caption = "Dead: non-zero values that become 0. Saturated: values within 1 % of the largest."
    show(table(columns, rows, right=columns, caption=caption))
