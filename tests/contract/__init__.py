"""What the project relies on in verl, vLLM, Ray, TransferQueue, transformers and peft, name by name.

``uses`` finds the names in our source, ``live`` describes them as they are installed, ``names.yaml`` is what they were
when the project was last adapted to them. ``python -m tests.contract.regenerate`` writes the column of the environment
that it runs in.
"""
