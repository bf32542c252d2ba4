package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
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
		secure  probeTLS
	)
	command := &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask a running adapter whether it serves; for exec probes in an image without a shell",
		Long:  "Ask a running adapter, by gRPC's health protocol, whether it serves. Ends with 0 if it does and with 1 if not.",
		Args:  noArguments,
		RunE: func(command *cobra.Command, _ []string) error {
			if timeout <= 0 {
				return fmt.Errorf("healthcheck: --timeout is %s; use more than 0s", timeout)
			}
			asked := settings.Default()
			asked.Listen = address
			if err := asked.Validate(); err != nil {
				return fmt.Errorf("healthcheck: --address: %w", err)
			}
			ctx, cancel := context.WithTimeout(command.Context(), timeout)
			defer cancel()
			security, err := secure.credentials()
			if err != nil {
				return fmt.Errorf("healthcheck: %w", err)
			}
			target := address
			if _, socket := settings.SocketPath(address); !socket {
				target = "passthrough:///" + address
			}
			connection, err := grpc.NewClient(target, grpc.WithTransportCredentials(security), grpc.WithNoProxy())
			if err != nil {
				return fmt.Errorf("healthcheck: %s: %w", address, err)
			}
			defer func() { _ = connection.Close() }()
			reply, err := healthpb.NewHealthClient(connection).Check(ctx, &healthpb.HealthCheckRequest{Service: service})
			if status.Code(err) == codes.NotFound {
				return fmt.Errorf("healthcheck: %s has no service %q; leave --service out to ask about the whole adapter", address, service)
			}
			if err != nil {
				return fmt.Errorf("healthcheck: %s does not answer; check the address, the --tls flags, and that `tollgate serve` runs: %w", address, err)
			}
			if reply.GetStatus() != healthpb.HealthCheckResponse_SERVING {
				return fmt.Errorf("healthcheck: %s is %s", address, reply.GetStatus())
			}
			_, err = fmt.Fprintln(command.OutOrStdout(), reply.GetStatus())
			return err
		},
	}
	f := command.Flags()
	f.StringVar(&address, "address", address, "host:port of the adapter, or unix:///PATH")
	f.StringVar(&service, "service", "", "gRPC service to ask about; empty for the whole adapter")
	f.DurationVar(&timeout, "timeout", time.Second, "how long to wait for the answer")
	f.StringVar(&secure.ca, "tls-ca", "", "ask over TLS, and believe the authorities in this PEM file")
	f.StringVar(&secure.serverName, "tls-server-name", "", "name that the certificate has to have, if not the address")
	f.BoolVar(&secure.unverified, "tls-unverified", false, "ask over TLS, and believe any certificate: for a probe in the same pod")
	return command
}

// probeTLS says how a probe speaks TLS; zero for plaintext.
type probeTLS struct {
	ca, serverName string
	unverified     bool
}

func (p probeTLS) credentials() (credentials.TransportCredentials, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: p.serverName}
	switch {
	case p.unverified && p.ca != "":
		return nil, errors.New("--tls-ca and --tls-unverified exclude each other; leave one out")
	case p.unverified:
		config.InsecureSkipVerify = true // the flag says so, and all that is asked is a status
	case p.ca != "":
		content, err := os.ReadFile(p.ca)
		if err != nil {
			return nil, fmt.Errorf("--tls-ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(content) {
			return nil, fmt.Errorf("--tls-ca: %s holds no certificate in PEM", p.ca)
		}
	case p.serverName != "":
		return nil, errors.New("--tls-server-name stands without --tls-ca; name the file of the authorities that signed the certificate there")
	default:
		return insecure.NewCredentials(), nil
	}
	return credentials.NewTLS(config), nil
}
