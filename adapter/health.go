package adapter

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/tollgate-mesh/tollgate/template"
)

// healthService is gRPC's health service whose watchers are let go when done is: they would stay as long as there is a server,
// and a graceful stop waits for them.
type healthService struct {
	*health.Server
	done context.Context
}

// Watch sends the status at every change.
func (h healthService) Watch(request *healthpb.HealthCheckRequest, stream healthpb.Health_WatchServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(h.done, cancel)()
	return h.Server.Watch(request, watchStream{stream, ctx})
}

type watchStream struct {
	healthpb.Health_WatchServer
	ctx context.Context
}

// Context returns the stream's context, which ends with the service as well.
func (s watchStream) Context() context.Context { return s.ctx }

// registerReflection lets tools such as grpcurl see the services with their messages.
func registerReflection(server *grpc.Server) error {
	templates, err := template.Files()
	if err != nil {
		return fmt.Errorf("template descriptors: %w", err)
	}
	reflectionpb.RegisterServerReflectionServer(server, reflection.NewServerV1(reflection.ServerOptions{
		Services:           server,
		DescriptorResolver: resolvers{templates, protoregistry.GlobalFiles},
	}))
	return nil
}

// resolvers asks several sources of descriptors in turn.
type resolvers []protodesc.Resolver

func (r resolvers) FindFileByPath(path string) (protoreflect.FileDescriptor, error) {
	for _, resolver := range r {
		if found, err := resolver.FindFileByPath(path); err == nil {
			return found, nil
		}
	}
	return nil, protoregistry.NotFound
}

func (r resolvers) FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error) {
	for _, resolver := range r {
		if found, err := resolver.FindDescriptorByName(name); err == nil {
			return found, nil
		}
	}
	return nil, protoregistry.NotFound
}
