"""Write this environment's column of the list: ``python -m tests.contract.regenerate``."""

from __future__ import annotations

from tests.contract.by_hand import everything
from tests.contract.record import moved, read, renewed, write
from tests.contract.test_contract import look


def main() -> None:
    here, live = look()
    listed, used = read(), everything()
    for line in moved(listed, live, here):
        print(line)  # noqa: T201 - what a person is to look at before it is checked in
    write(renewed(listed, used, live, here))


if __name__ == "__main__":
    main()
