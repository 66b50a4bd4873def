"""Pure mathematics of the treatments, on any tree of torch modules: nothing here knows verl, Ray or the spool."""
