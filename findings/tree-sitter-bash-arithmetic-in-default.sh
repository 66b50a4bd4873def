#!/usr/bin/env bash
# tree-sitter-bash 0.25.1: $((…)) inside the default of ${X:-…} is parsed as a subshell, not as arithmetic.
#
# Why it matters: training scripts compute batch sizes and token limits as ${MAX_LENGTH:-$((1024 * 8))}. A tool that
# reads the script through this grammar sees a command substitution that runs a subshell with a command named "1+2".
# It must not conclude that the script runs a program there, nor that the value is unknown: bash prints a number.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3.11 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  tree-sitter==0.26.1 tree-sitter-bash==0.25.1

echo 'expected: arithmetic_expansion outside of a default, subshell inside of one; bash prints 3 for both'
echo "bash prints: $(env -u X bash -c 'echo $((1+2))') $(env -u X bash -c 'echo ${X:-$((1+2))}')"

"$work/venv/bin/python" - "$(env -u X bash -c 'echo ${X:-$((1+2))}')" <<'PYTHON'
import sys
from importlib.metadata import version

import tree_sitter_bash
from tree_sitter import Language, Node, Parser

print("tree-sitter", version("tree-sitter"), "tree-sitter-bash", version("tree-sitter-bash"))
parser = Parser(Language(tree_sitter_bash.language()))


def types(node: Node) -> list[str]:
    """The types of the named nodes, each before those inside it."""
    own = [node.type] if node.is_named else []
    return own + [name for child in node.children for name in types(child)]


plain = parser.parse(b"echo $((1+2))\n").root_node
inside = parser.parse(b"echo ${X:-$((1+2))}\n").root_node
print("echo $((1+2)):", " ".join(types(plain)))
print("echo ${X:-$((1+2))}:", " ".join(types(inside)))

holds = (
    sys.argv[1] == "3"
    and "arithmetic_expansion" in types(plain)
    and "arithmetic_expansion" not in types(inside)
    and "subshell" in types(inside)
    and not inside.has_error
)
print("behaves as described" if holds else "the behaviour changed")
sys.exit(0 if holds else 1)
PYTHON
