"""Runs Invoke with the tasks of this checkout: what ./factory starts, in the environment, with `python -S -P`.

Ctrl-C ends it at once and in silence until a command begins: Python's own handler would show a traceback of imports.
"""

if __name__ == "__main__":
    try:
        import signal

        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        import site

        site.main()
        import sys

        from serving_factory.commands.boundary import open_streams

        open_streams()
        from serving_factory.commands.cli import main

        code = main(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    raise SystemExit(code)
