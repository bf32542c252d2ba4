module github.com/tollgate-mesh/tollgate/test/connections

go 1.26.0

require (
	github.com/stretchr/testify v1.12.1
	github.com/tollgate-mesh/tollgate v0.0.0
	github.com/tollgate-mesh/tollgate/bench v0.0.0
	go.uber.org/goleak v1.3.0
	golang.org/x/net v0.60.0
	golang.org/x/sys v0.48.0
	google.golang.org/grpc v1.85.0
)

require (
	github.com/gogo/protobuf v1.3.2 // indirect
	github.com/munnerz/goautoneg v0.0.0-20191010083416-a7dc8b61c822 // indirect
	github.com/prometheus/client_model v0.6.3 // indirect
	github.com/prometheus/common v0.72.0 // indirect
	go.yaml.in/yaml/v3 v3.0.6 // indirect
	golang.org/x/text v0.42.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20261012220534-4341edf3f941 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
	istio.io/api v0.0.0-20210128181506-0c4b8e54850f // indirect
	istio.io/gogo-genproto v0.0.0-20190930162913-45029607206a // indirect
)

replace github.com/tollgate-mesh/tollgate => ../..

replace github.com/tollgate-mesh/tollgate/bench => ../../bench
