package p
allow { input.a.b = `x hunter2
 hunter2 \ " hunter2` }
allow { "a\"hunter2\\" == `b"hunter2` }
allow { "\u0068unter2" == input["\u0068unter2"] }
