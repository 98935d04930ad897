"""The kinds of tests there are, each with what its tests have in common."""

def unit_tests(tests, deps, medium = [], data = [], tags = []):
    """Tests of one room, a file each: small unless named in `medium`."""
    for name in tests:
        native.cc_test(
            name = name,
            size = "medium" if name in medium else "small",
            srcs = [name + ".cc"],
            data = data,
            tags = tags,
            deps = deps + ["@googletest//:gtest_main"],
        )

def gateway_test(name, deps = [], size = "medium", tags = [], **kwargs):
    """A test with a gateway of its own: it makes network namespaces, which a sandbox forbids, and shares the machine's
    conntrack limits."""
    native.cc_test(
        name = name,
        size = size,
        srcs = [name + ".cc"],
        tags = ["exclusive", "local"] + tags,
        deps = deps + ["//tests/support:gateway", "//tests/support:subprocess", "@googletest//:gtest_main"],
        **kwargs
    )

def database_test(name, deps = [], **kwargs):
    """A test with a PostgreSQL of its own. It refuses to run as root, and a sandbox has no other user to become."""
    native.cc_test(
        name = name,
        size = "medium",
        timeout = "long",  # Under sanitizers, on two busy CPUs.
        srcs = [name + ".cc"],
        tags = ["local"],
        deps = deps + ["//tests/support:private_postgres", "//tests/support:subprocess", "@googletest//:gtest_main"],
        **kwargs
    )
