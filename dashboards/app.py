"""The dashboard: `streamlit run` starts here, and `aqn ui` starts that."""

from __future__ import annotations

import streamlit as st

from dashboards.page import guarded, living, styled
from dashboards.views import bugs, compare, fleet, run, runs, search, srdd, sweeps


def main() -> None:
    st.set_page_config(page_title="aqn", layout="wide")
    styled()
    st.navigation(
        [
            st.Page(living(sweeps.draw), title="Sweeps", url_path="sweeps", default=True),
            st.Page(guarded(runs.draw), title="Runs", url_path="runs"),
            st.Page(living(run.draw), title="Run", url_path="run"),
            st.Page(guarded(compare.draw), title="Compare", url_path="compare"),
            st.Page(guarded(bugs.draw), title="Bugs", url_path="bugs"),
            st.Page(guarded(srdd.draw), title="SRDD", url_path="srdd"),
            st.Page(guarded(search.draw), title="Search", url_path="search"),
            st.Page(living(fleet.draw), title="Fleet", url_path="fleet"),
        ],
        position="top",
    ).run()


main()
