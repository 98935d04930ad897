#!/bin/sh
# Puts the report's page together, as a C++ string: page.html with everything that it needs within itself.
#
#   embed.sh PAGE STYLE SCRIPT LIBRARY LIBRARY_STYLE LIBRARY_LICENSE > report_page.inc
#
# The page's policy allows one script, by its hash: nothing that may come with the data can run.
set -eu
page=$1 style=$2 script=$3 library=$4 library_style=$5 license=$6
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT

# Without what points to files that are not in the page.
{ cat "$library"; echo; cat "$script"; } | grep -v '^//# sourceMappingURL=' >"$parts/script"
{ sed 's,/\*# sourceMappingURL=.*,,' "$library_style"; echo; cat "$style"; } >"$parts/style"
sed 's/&/\&amp;/g; s/</\&lt;/g; s/>/\&gt;/g' "$license" >"$parts/license"
if grep -qi '</script\|<!--' "$parts/script" || grep -q ')page"' "$parts/script" "$parts/style" "$parts/license"; then
    echo "embed.sh: a part would end the element that holds it" >&2
    exit 1
fi
# What stands between the tags, to the byte: a line's end on both sides.
hash=$({ echo; cat "$parts/script"; } | sha256sum | cut -c1-64 | sed 's/../\\x&/g')
# shellcheck disable=SC2059 # A format of nothing but escapes.
hash=$(/usr/bin/printf "$hash" | base64)

printf 'R"page('
sed -e "s,@SCRIPT_HASH@,$hash," \
    -e "/^@STYLE@\$/{r $parts/style" -e 'd}' \
    -e "/^@LICENSE@\$/{r $parts/license" -e 'd}' \
    -e "/^@SCRIPT@\$/{r $parts/script" -e 'd}' "$page"
printf ')page"'
