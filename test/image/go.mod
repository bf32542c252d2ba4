module github.com/tollgate-mesh/tollgate/test/image

go 1.26.0

require (
	github.com/stretchr/testify v1.12.1
	github.com/tollgate-mesh/tollgate v0.0.0
	google.golang.org/grpc v1.85.0
)

require (
	github.com/gogo/protobuf v1.3.2 // indirect
	go.yaml.in/yaml/v3 v3.0.6 // indirect
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
	golang.org/x/text v0.42.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20261012220534-4341edf3f941 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
	istio.io/api v0.0.0-20210128181506-0c4b8e54850f // indirect
	istio.io/gogo-genproto v0.0.0-20190930162913-45029607206a // indirect
)

replace github.com/tollgate-mesh/tollgate => ../..
