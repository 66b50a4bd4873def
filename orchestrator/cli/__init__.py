"""The command line. One file a group of commands; heavy imports live inside the commands, so that --help is instant."""
