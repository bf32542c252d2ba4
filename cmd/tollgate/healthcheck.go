package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/tollgate-mesh/tollgate/adapter/settings"
)

func healthcheckCommand() *cobra.Command {
	var (
		address = settings.Default().Listen
		service string
		timeout time.Duration
	)
	command := &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask a running adapter whether it serves; for exec probes in an image without a shell",
		Long:  "Ask a running adapter, by gRPC's health protocol, whether it serves. Ends with 0 if it does and with 1 if not.",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(command.Context(), timeout)
			defer cancel()
			connection, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				return fmt.Errorf("healthcheck: %s: %w", address, err)
			}
			defer func() { _ = connection.Close() }()
			reply, err := healthpb.NewHealthClient(connection).Check(ctx, &healthpb.HealthCheckRequest{Service: service})
			if status.Code(err) == codes.NotFound {
				return fmt.Errorf("healthcheck: %s has no service %q; leave --service out to ask about the whole adapter", address, service)
			}
			if err != nil {
				return fmt.Errorf("healthcheck: %s does not answer; check the address and that `tollgate serve` runs: %w", address, err)
			}
			if reply.GetStatus() != healthpb.HealthCheckResponse_SERVING {
				return fmt.Errorf("healthcheck: %s is %s", address, reply.GetStatus())
			}
			_, err = fmt.Fprintln(command.OutOrStdout(), reply.GetStatus())
			return err
		},
	}
	f := command.Flags()
	f.StringVar(&address, "address", address, "host:port of the adapter")
	f.StringVar(&service, "service", "", "gRPC service to ask about; empty for the whole adapter")
	f.DurationVar(&timeout, "timeout", time.Second, "how long to wait for the answer")
	return command
}
