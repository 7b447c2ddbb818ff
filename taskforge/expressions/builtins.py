"""The functions of jq 1.8 that an expression may call, and those that are not there.

Source: jq's own `builtins`; a test compares the two.
"""

from __future__ import annotations

_KNOWN = """
IN/1,2 INDEX/1,2 JOIN/2,3,4 abs/0 acos/0 acosh/0 add/0,1 all/0,1,2 any/0,1,2 arrays/0 ascii_downcase/0
ascii_upcase/0 asin/0 asinh/0 atan/0 atan2/2 atanh/0 booleans/0 bsearch/1 builtins/0 capture/1,2 cbrt/0 ceil/0
combinations/0,1 contains/1 copysign/2 cos/0 cosh/0 del/1 delpaths/1 drem/2 empty/0 endswith/1 erf/0 erfc/0
error/0,1 exp/0 exp10/0 exp2/0 explode/0 expm1/0 fabs/0 fdim/2 finites/0 first/0,1 flatten/0,1 floor/0 fma/3
fmax/2 fmin/2 fmod/2 format/1 frexp/0 from_entries/0 fromdate/0 fromdateiso8601/0 fromjson/0 fromstream/1
gamma/0 getpath/1 gmtime/0 group_by/1 gsub/2,3 has/1 have_decnum/0 have_literal_numbers/0 hypot/2 implode/0 in/1
index/1 indices/1 infinite/0 inside/1 isempty/1 isfinite/0 isinfinite/0 isnan/0 isnormal/0 iterables/0 j0/0 j1/0
jn/2 join/1 keys/0 keys_unsorted/0 last/0,1 ldexp/2 length/0 lgamma/0 lgamma_r/0 limit/2 localtime/0 log/0
log10/0 log1p/0 log2/0 logb/0 ltrim/0 ltrimstr/1 map/1 map_values/1 match/1,2 max/0 max_by/1 min/0 min_by/1
mktime/0 modf/0 nan/0 nearbyint/0 nextafter/2 nexttoward/2 normals/0 not/0 now/0 nth/1,2 nulls/0 numbers/0
objects/0 path/1 paths/0,1 pick/1 pow/2 range/1,2,3 recurse/0,1,2 remainder/2 repeat/1 reverse/0 rindex/1 rint/0
round/0 rtrim/0 rtrimstr/1 scalars/0 scalb/2 scalbln/2 scan/1,2 select/1 setpath/2 significand/0 sin/0 sinh/0
skip/2 sort/0 sort_by/1 split/1,2 splits/1,2 sqrt/0 startswith/1 strflocaltime/1 strftime/1 strings/0 strptime/1
sub/2,3 tan/0 tanh/0 test/1,2 tgamma/0 to_entries/0 toboolean/0 todate/0 todateiso8601/0 tojson/0 tonumber/0
tostream/0 tostring/0 transpose/0 trim/0 trimstr/1 trunc/0 truncate_stream/1 type/0 unique/0 unique_by/1 until/2
utf8bytelength/0 values/0 walk/1 while/2 with_entries/1 y0/0 y1/0 yn/2
"""

KNOWN: dict[str, tuple[int, ...]] = {
    name: tuple(int(count) for count in counts.split(","))
    for name, _, counts in (entry.partition("/") for entry in _KNOWN.split())
}
"""Every function by name, with the numbers of arguments it takes."""

FORBIDDEN: dict[str, str] = {
    "env": "an expression does not see the environment; use $vars or $secrets",
    "input": "an expression has no further input; use $input for the run's input",
    "inputs": "an expression has no further input; use $input for the run's input",
    "debug": "an expression has nowhere to write to",
    "stderr": "an expression has nowhere to write to",
    "halt": 'use error("…") to fail',
    "halt_error": 'use error("…") to fail',
    "input_filename": "an expression reads no files",
    "input_line_number": "an expression reads no files",
    "get_search_list": "an expression loads no modules",
    "get_prog_origin": "an expression loads no modules",
    "get_jq_origin": "an expression loads no modules",
    "modulemeta": "an expression loads no modules",
}
"""Functions of jq that are not there, each with what to do instead."""

FORBIDDEN_VARIABLES: dict[str, str] = {
    "ENV": "an expression does not see the environment; use $vars or $secrets",
    "__prog_args": "use the names that the workflow gives",
}
"""Variables of jq that are not there, each with what to do instead."""

_KEYWORDS = """
as import include module def if then else elif end and or reduce foreach try catch label break
"""

KEYWORDS = frozenset(_KEYWORDS.split())
"""Words that name no function."""
