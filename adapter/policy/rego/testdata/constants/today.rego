package p

import rego.v1

default allow := false

k := "hunter2"

m := {"hunter2": 1, "b": "hunter2"}

allow if {
	input.x == "hunter2"
	m["hunter2"] == 1
	data.p.m["hunter2"]
	`hunter2` == input.y
	count({"hunter2"}) == 1
	sprintf("hunter2 %d", [1]) != ""
	x := {"hunter2": y | y := "hunter2"}
	every z in ["hunter2"] { z == "hunter2" }
}

# hunter2
f("hunter2") := 1

s contains "hunter2"

o["hunter2"] := 1
