"""SRDD: what a number format does to each layer of a model, and what that makes of the noise."""

from __future__ import annotations

import streamlit as st
from sqlalchemy import Engine

from dashboards import figures
from dashboards.page import chart, keep, plain, show
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
    known = list(scans)
    if "scan" not in st.session_state:
        st.session_state["scan"] = st.query_params.get("scan", known[0])
    asked = str(st.session_state["scan"])
    name = st.selectbox(
        "scan", known if asked in scans else [asked, *known], key="scan",
        format_func=lambda run_id: f"{scans[run_id][0] if run_id in scans else 'not PROVEN'} · {run_id[:10]}",
    )  # fmt: skip
    keep("scan", name)
    if name not in scans:
        st.warning(f"No PROVEN scan is called {plain(name)}: what was measured is not to be aimed by.")
        return
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
