package rego

import (
	"context"
	"errors"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// query is one document to be evaluated, compiled as far as it goes without the input. It goes to OPA's evaluator directly: OPA's rego
// package takes a sixth more time.
type query struct {
	compiler *ast.Compiler
	// bodies are the ways to the document. Each binds answer.
	bodies  []ast.Body
	queries []ast.QueryCompiler // of each body
	store   storage.Store
	open    storage.Transaction // for reading; never closed, since nobody else has the store
	// strict makes an error in a built-in end the evaluation, as in the OPA of Mixer's adapter. Later it makes the expression undefined. A
	// policy of that time may rely on the former: `not` of an undefined expression is true.
	strict bool
	// environment says what policies may do beside computing.
	environment *Environment
}

const answer = ast.Var("answer")

// newQuery compiles the query for a document of the library.
func newQuery(l *library, document ast.Ref) (*query, error) {
	open, err := l.store.NewTransaction(context.Background())
	if err != nil {
		return nil, err
	}
	q := &query{compiler: l.compiler, store: l.store, open: open, strict: l.version == ast.RegoV0, environment: l.environment}
	return q, q.add(ast.NewBody(ast.Equality.Expr(ast.NewTerm(document), ast.NewTerm(answer))))
}

func (q *query) add(body ast.Body) error {
	compiler := q.compiler.QueryCompiler()
	compiled, err := compiler.Compile(body)
	q.bodies, q.queries = append(q.bodies, compiled), append(q.queries, compiler)
	return err
}

// eval returns the document; nil if it is undefined.
func (q *query) eval(ctx context.Context, input ast.Value) (value ast.Value, err error) {
	cancel := topdown.NewCancel()
	defer context.AfterFunc(ctx, cancel.Cancel)()
	term := ast.NewTerm(input)
	for i, body := range q.bodies {
		err := topdown.NewQuery(body).WithCompiler(q.compiler).WithQueryCompiler(q.queries[i]).WithStore(q.store).WithTransaction(q.open).
			WithInput(term).WithStrictBuiltinErrors(q.strict).WithCancel(cancel).WithMetrics(metrics.NoOp()).
			WithHTTPRoundTripper(q.environment.transport).WithPrintHook(q.environment.printer).
			Iter(ctx, func(result topdown.QueryResult) error {
				found := result[answer]
				switch {
				case found == nil:
					return errors.New("a result has no value")
				case value != nil && value.Compare(found.Value) != 0:
					return errConflict
				}
				value = found.Value
				return nil
			})
		if err != nil {
			return nil, err
		}
	}
	return value, nil
}

var errConflict = errors.New("the document has several values")
