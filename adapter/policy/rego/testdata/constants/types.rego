package p
o = {"hunter2": {"hunter2": 1}}
allow { 1 + "hunter2" == 2 }
allow { count("hunter2", 1, 2) }
allow { {"hunter2": 1} + 1 }
allow { x := {"hunter2": 1}; x.other.y }
allow { data.p.o.q.r }
allow { "hunter2"[0] }
allow { ["hunter2"] = {"hunter2"} }
allow { regex.match("hunter2", ["hunter2"]) }
allow { not "hunter2"(1) }
allow = "hunter2" { true }
allow = "hunter2" { true } else = ["hunter2"] { 1 }
f(1) = 1
allow { f("hunter2") }
