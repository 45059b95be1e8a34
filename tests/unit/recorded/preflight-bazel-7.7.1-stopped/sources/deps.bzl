load("@s//:defs.bzl", "s_deps")
def deps():
    s_deps()
