"""What is released: a wheel that installs into an empty environment and plans there; images and manifests in order."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from experiment_specs.presets import PACKAGE

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKER = REPOSITORY / "docker"


def done(*command: str | Path, cwd: Path, **more: str) -> str:
    bare = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    found = subprocess.run(
        list(map(str, command)), cwd=cwd, env=bare | more, capture_output=True, text=True, timeout=800, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_plans_in_an_empty_environment(tmp_path) -> None:
    uv = Path(sys.executable).with_name("uv")
    source = tmp_path / "source"
    kept = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "site", "__pycache__")
    shutil.copytree(REPOSITORY, source, ignore=kept)
    done(uv, "build", "--wheel", "--out-dir", tmp_path / "dist", source, cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    done(uv, "venv", "--python", sys.executable, tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    constraints = REPOSITORY / "constraints.txt"
    done(uv, "pip", "install", "--python", python, "-c", constraints, wheel, cwd=tmp_path)
    aqn = tmp_path / "venv" / "bin" / "aqn"
    shutil.copy(PACKAGE / "sweeps" / "demo.yaml", tmp_path / "mine.yaml")
    assert "4 conditions" in done(aqn, "plan", "mine.yaml", cwd=tmp_path)
    assert done(aqn, "--version", cwd=tmp_path).startswith("aqn 0.1.0 (")
    done(python, "-c", "import dashboards.app", cwd=tmp_path)


def test_images_are_in_order() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done(hadolint, *sorted(DOCKER.glob("*.Dockerfile")), cwd=REPOSITORY)


def test_images_copy_what_the_package_is_made_of() -> None:
    packages = {path.parent.name for path in REPOSITORY.glob("*/__init__.py")} - {"tests", "benchmarks"}
    for image in DOCKER.glob("*.Dockerfile"):
        copied = {line.split()[1] for line in image.read_text().splitlines() if line.startswith("COPY")}
        assert packages <= copied, image.name


def test_compose_and_manifest_are_of_this_project() -> None:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    assert set(compose["services"]) == {"database", "scheduler", "pages"}
    for port in compose["services"]["pages"]["ports"]:
        assert port.startswith("127.0.0.1:"), "nothing is open to the world unless somebody opens it"
    cluster = yaml.safe_load((DOCKER / "raycluster.yaml").read_text())
    pins = (REPOSITORY / "constraints.txt").read_text()
    assert f"ray=={cluster['spec']['rayVersion']}\n" in pins
    workers = cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]
    assert head["containers"][0]["env"] == workers["containers"][0]["env"]
    assert {v["name"] for v in workers["volumes"]} == {m["name"] for m in workers["containers"][0]["volumeMounts"]}
