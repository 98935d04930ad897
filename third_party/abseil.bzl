"""abseil as it is installed: which shared libraries there are differs between its releases."""

# In Debian 13 (20240722) and not in Debian 12 (20220623).
NEWER = ["string_view"]

def _abseil(ctx):
    missing = []
    for name in NEWER:
        if ctx.execute(["sh", "-c", "ls /usr/lib/*/libabsl_%s.so" % name]).return_code != 0:
            missing.append(name)
    text = ctx.read(ctx.attr.build_file)
    for name in missing:
        text = text.replace("        \"-labsl_%s\",\n" % name, "")
    ctx.file("BUILD.bazel", text)

abseil_repository = repository_rule(
    implementation = _abseil,
    attrs = {"build_file": attr.label(allow_single_file = True)},
    local = True,  # Checked again after an upgrade of the system.
)
