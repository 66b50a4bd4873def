"""A spool cut at any byte keeps every complete line before the cut, and goes on after it without a gap or a double."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.events import Spool, read_events

TEXTS = st.lists(st.text(max_size=40), min_size=1, max_size=12)


@given(texts=TEXTS, cut=st.floats(0, 1), later=TEXTS, reads=st.lists(st.integers(0, 3), max_size=4))
def test_a_writer_killed_at_any_byte_costs_only_its_own_line(tmp_path_factory, texts, cut, later, reads) -> None:
    folder = tmp_path_factory.mktemp("spool")
    spool = Spool(folder)
    for text in texts:
        spool.append("step", {"text": text})
    whole = spool.path.read_bytes()
    kept = whole[: int(cut * len(whole))]
    spool.path.write_bytes(kept)
    ends = [index for index, byte in enumerate(whole) if byte == ord("\n")]
    survivors = texts[: sum(end <= len(kept) for end in ends)]  # a whole line without its end of line counts
    seen, offset = read_events(folder)
    for text in later:
        spool.append("step", {"text": text})
        if reads and reads.pop():
            more, offset = read_events(folder, offset)
            seen += more
    more, offset = read_events(folder, offset)
    seen += more
    assert [event.seq for event in seen] == list(range(len(seen)))
    assert [event.data["text"] for event in seen] == survivors + later
