"""The kinds of tests there are, each with what its tests have in common."""

ABSEIL = ["@abseil//:status", "@abseil//:strings", "@abseil//:time"]
GTEST = ["@googletest//:gtest_main"]

def unit_tests(tests, deps, medium = [], data = [], tags = []):
    """Tests of one room, a file each: small unless named in `medium`."""
    for name in tests:
        native.cc_test(
            name = name,
            size = "medium" if name in medium else "small",
            srcs = [name + ".cc"],
            data = data,
            tags = tags,
            deps = deps + GTEST,
        )

def test_library(name, deps = [], srcs = True, **kwargs):
    """What tests share: NAME.h and, unless `srcs` is False, NAME.cc."""
    native.cc_library(
        name = name,
        testonly = True,
        srcs = [name + ".cc"] if srcs else [],
        hdrs = [name + ".h"],
        deps = deps + ABSEIL + GTEST,
        **kwargs
    )

def program_test(name, deps = [], size = "medium", **kwargs):
    """A test that runs our programs, which its `data` names."""
    native.cc_test(
        name = name,
        size = size,
        srcs = [name + ".cc"],
        deps = deps + ["//tests/support:" + name for name in ["conditions", "files", "subprocess"]] + ABSEIL + GTEST,
        **kwargs
    )

def gateway_test(name, deps = [], tags = [], **kwargs):
    """A test with a gateway of its own: it makes network namespaces, which a sandbox forbids, and shares the machine's
    conntrack limits."""
    program_test(
        name = name,
        tags = ["exclusive", "local"] + tags,
        deps = deps + ["//tests/support:engine_test", "//tests/support:gateway"],
        **kwargs
    )

def database_test(name, deps = [], **kwargs):
    """A test with a PostgreSQL of its own. It refuses to run as root, and a sandbox has no other user to become."""
    program_test(
        name = name,
        timeout = "long",  # Under sanitizers, on two busy CPUs.
        tags = ["local"],
        deps = deps + ["//tests/support:private_postgres"],
        **kwargs
    )

def fuzz_target(name, deps):
    """libFuzzer comes with clang; g++ has none, so these are not part of //... builds."""
    native.cc_binary(
        name = name,
        testonly = True,
        srcs = [name + ".cc"],
        linkopts = ["-fsanitize=fuzzer"],
        tags = ["manual"],
        deps = deps,
    )
