module github.com/tollgate-mesh/tollgate/test/reports

go 1.26.0

require (
	github.com/gogo/protobuf v1.3.2
	github.com/prometheus/client_model v0.6.3
	github.com/prometheus/common v0.72.0
	github.com/stretchr/testify v1.12.1
	github.com/tollgate-mesh/tollgate v0.0.0
	go.uber.org/goleak v1.3.0
	google.golang.org/grpc v1.85.0
	google.golang.org/protobuf v1.36.12
	istio.io/api v0.0.0-20210128181506-0c4b8e54850f
)

require (
	github.com/munnerz/goautoneg v0.0.0-20191010083416-a7dc8b61c822 // indirect
	go.yaml.in/yaml/v3 v3.0.6 // indirect
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
	golang.org/x/text v0.42.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20261012220534-4341edf3f941 // indirect
	istio.io/gogo-genproto v0.0.0-20190930162913-45029607206a // indirect
)

replace github.com/tollgate-mesh/tollgate => ../..
