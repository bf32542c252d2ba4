package p
o = {"a": 1}
g(x) = 1
allow { o["hunter2"].x }
allow { data.p["hunter2"] }
allow { data.p.o["hunter2"] }
allow { data.p.o["x hunter2 x"] }
allow { input["hunter2"](1) }
allow { stranger("hunter2") }
allow { x["hunter2"] }
allow { true with data.p.o["hunter2"] as "hunter2" }
allow { true with input["hunter2"] as y }
allow { true with data.p.g["hunter2"] as 1 }
allow { g["hunter2"](1) }
allow { data.p.o[{"x": y}]["hunter2"] }
