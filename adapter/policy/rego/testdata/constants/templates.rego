package p
import rego.v1
allow if { x := $"a {input.x} hunter2 {"hunter2"} z"; y := $`hunter2 {x} hunter2`; x == y }
