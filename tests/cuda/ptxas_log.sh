#!/bin/sh
# Runs the CUDA compiler and keeps what ptxas says about registers and spills beside the object, as OBJECT.ptxas, where
# test_ptxas.py reads it. Everything else it says goes on to stderr.
object=
previous=
for word in "$@"; do
    [ "$previous" = -o ] && object=$word
    previous=$word
done
[ -n "$object" ] || exec "$@"
"$@" 2>"$object.ptxas"
code=$?
grep -vE "^ptxas info|bytes stack frame|^\$" "$object.ptxas" >&2
exit $code
