package p
import "hunter2"
import foo["hunter2"]
import data["hunter2"]["hunter2 2"] as z
import data["hunter2"]["hunter2 2"]
import future.keywords["hunter2"]
import rego["hunter2"]
default "hunter2" = 1
default f("hunter2") = 1
default allow = input["hunter2"]
"hunter2" = 1
"hunter2"
["hunter2"] { true }
"hunter2"["hunter2"] { true }
allow { true with "hunter2" as 1 }
allow { true with ["hunter2"] as 1 }
allow { some "hunter2" in input }
allow { some "hunter2" }
allow { some x, "hunter2" in input; x }
allow { "hunter2" := 1 }
allow { input["hunter2"] := 1 }
allow { "hunter2" = 1 }
allow { ["hunter2"] := [x, y] }
allow { {"hunter2": 1} := x }
allow { {x: "hunter2"} := {"hunter2": 1} }
allow { "hunter2" }{ "hunter2 }
allow["hunter2"] { true } else = "hunter2" { true }
g["hunter2"]("hunter2") = 1
h("hunter2", x) { y }
allow { not [x | x == "hunter2"] }
allow { x == "hunter2"; y := {"hunter2" | z} }
allow { object.get("hunter2", "hunter2", 1, 2) }
allow { "hunter2" in "hunter2" in }
