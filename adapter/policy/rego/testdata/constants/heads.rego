package p
allow = true
allow = "hunter2"
default allow = "hunter2"
default allow = {"hunter2"}
q["hunter2"] = 1
q["hunter2"] { true }
r["hunter2"][x] = 1 { x := 1 }
r["hunter2"] = 1
r["hunter2"].b = 4
