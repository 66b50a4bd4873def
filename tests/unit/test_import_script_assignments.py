"""What a script assigns: the value that is read is bash's own, or it is not known. It is never another."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orchestrator.importers.script.braces import expanded
from orchestrator.importers.script.shell import read
from orchestrator.importers.script.text import Text

BASH = shutil.which("bash")
LINES = Path(__file__).resolve().parents[1] / "data" / "scripts" / "assignments.txt"
PIECES = [line.replace("{NL}", "\n") for line in LINES.read_text().splitlines()[1:]]
ENTRY = "python3 -m verl.trainer.main_ppo"
START = "n=4\nm=2\n"
AROUND = (
    "{}", "{}", "{}", "if [ -d /nowhere ]; then {}; fi", "if [ -d /tmp ]; then {}; fi", "for w in 1 2; do {}; done",
    "g() {{ {}; }}; g", "while read -r ln; do {}; done < <(printf 'a\\nb\\n')",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scripts")
    (path / "env.sh").write_text("n=77\n")
    return path


def of_bash(text: str, folder: Path) -> list[str] | None:
    """The two words that bash gives to the command; None where it does not come so far."""
    if BASH is None:
        pytest.skip("bash is not installed")
    stub = 'python3() { printf \'OUT<%s><%s>\\n\' "$3" "$4"; exit; }\n'
    place = {"PATH": os.environ["PATH"], "HOME": "/home/me"}
    done = subprocess.run(
        [BASH, "-c", f'{stub}{text}{ENTRY} "n=$n" "m=$m"\n'], cwd=folder, env=place, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    _, found, rest = done.stdout.partition("OUT<")
    return rest.split(">\n")[0].split("><") if found else None


def ours(text: str, folder: Path) -> tuple[Text, ...]:
    return read(f'{text}{ENTRY} "n=$n" "m=$m"\n', {"HOME": "/home/me", "PWD": str(folder)}).launches[-1].words


def agree(text: str, folder: Path) -> None:
    real = of_bash(text, folder)
    if real is None:
        return
    for word, value in zip(ours(text, folder), real, strict=True):
        assert not word.known or word.when or word.text == value, text


@pytest.mark.parametrize("piece", PIECES)
def test_each_construct_alone(piece: str, folder: Path) -> None:
    agree(START + piece.replace("\u00a4", "5") + "\n", folder)


def one_line(choice: tuple[int, int, int]) -> str:
    piece, number, around = choice
    line = PIECES[piece].replace("\u00a4", str(number))
    return line if "\n" in line or line.startswith("local") else AROUND[around].format(line)


SCRIPTS = st.lists(
    st.tuples(st.integers(0, len(PIECES) - 1), st.integers(1, 12), st.integers(0, len(AROUND) - 1)).map(one_line),
    min_size=2, max_size=7,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(SCRIPTS)
def test_random_scripts(folder: Path, lines: list[str]) -> None:
    agree(START + "\n".join(lines) + "\n", folder)


def test_most_constructs_are_followed_and_not_only_given_up(folder: Path) -> None:
    known = [all(word.known for word in ours(START + piece.replace("\u00a4", "5") + "\n", folder)) for piece in PIECES]
    assert sum(known) > 0.6 * len(known)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("(( n *= 2 ))", "8"), ("let n+=1", "5"), ("((n++))", "5"), ("for ((n=1;n<9;n++)); do :; done", "9"),
        ("printf -v n %s 8", "8"), ("declare -i n; n+=4", "8"), ("f() { local n=9; }; f", "4"), ("n=8 | cat", "4"),
        ("for n in {1..3}; do :; done", "3"), ("read -r -d '' n <<X || true\n7\nX", "7"), ("f() { n=9; }; f", "9"),
        ("while (( n < 20 )); do ((n+=7)); done", "25"), ("for n in 1 2 3; do ((n==2)) && break; done", "2"),
        ("mapfile -t A < <(printf '%s\\n' 5 6); n=${A[1]}", "6"), ("n=1 m=2 # both\n{ n=3; }", "3"),
        ("source ./env.sh\nn=5", "5"), ("source /venv/bin/activate", "4"), ("cat <<X >f && n=6 || true\n$n\nX", None),
        ("source ./env.sh", None), ("trap 'n=8' DEBUG", None), ("eval $(setup)", None), ("source ./env.sh; setup", None),
        ("n=6 2>/dev/null", "6"), ("declare -r w=3; w=9 2>/dev/null; n=2", None), ("read n", None), ("getopts a n", None), ("do_work && n=8", None), ("for n in $(ls); do :; done", None),
        ("m=4; while read -r l; do n=$m; m=8; done < f", None), ("[ -d /data ] && f() { n=3; } || f() { :; }; f", None),
    ],
)  # fmt: skip
def test_what_is_known_afterwards(line: str, expected: str | None, folder: Path) -> None:
    word = ours(f"n=4\n{line}\n", folder)[0]
    assert (word.text if word.known else None) == (None if expected is None else f"n={expected}")


def test_values_that_are_given_hold_where_a_file_is_not_read() -> None:
    text = f"source ./env.sh\n{ENTRY} a=$GIVEN b=${{OTHER:-1}}"
    given_, other = read(text, {"GIVEN": "3"}).launches[0].words
    assert given_.text == "a=3"
    assert other.shown == "b=$OTHER"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("a=1 \\\n`# samples` \\\nb=2 \\\n`# more # of it` c=3", ["a=1", "b=2", "c=3"]),
        ('"x`# c`y" d=4', ["xy", "d=4"]),
        ("'`# c`' d=4", ["`# c`", "d=4"]),
        ("`echo a=1 # c` d=4", ["a=1", "d=4"]),
        ("a{}b {} {x} d=4", ["a{}b", "{}", "{x}", "d=4"]),
        ('{a,b}=1 k={1..3} "{a,b}" \\{a,b}', ["a=1", "b=1", "k=1", "k=2", "k=3", "{a,b}", "{a,b}"]),
    ],
)
def test_words_as_bash_has_them(words: str, expected: list[str], folder: Path) -> None:
    assert [word.shown for word in read(f"{ENTRY} {words}\n", {}).launches[0].words] == expected
    if BASH is not None:
        shown = subprocess.run(
            [BASH, "-c", f"printf '%s\\0' {words}"], capture_output=True, text=True, timeout=60, check=True
        )
        assert shown.stdout.split("\0")[:-1] == expected


@given(st.text(st.sampled_from("ab0123{},.-"), max_size=12))
@settings(max_examples=100, deadline=None)
def test_braces(text: str) -> None:
    assume("{}" not in text)
    if BASH is None:
        pytest.skip("bash is not installed")
    shown = subprocess.run([BASH, "-c", f"printf '%s\\0' x{text}"], capture_output=True, text=True, check=False)
    assert expanded(f"x{text}") == shown.stdout.split("\0")[:-1] or shown.returncode


def test_a_loop_without_end_is_told_once() -> None:
    launch = read(f'while some_test; do A+=("trainer.y=1"); done\n{ENTRY} "${{A[@]}}"', {}).launches[0]
    assert len(launch.words) == 1
    endless = read(f'while true; do A+=("trainer.y=1"); done\n{ENTRY} "${{A[@]}}"', {}).launches
    assert all(len(one.words) == 1 for one in endless)
