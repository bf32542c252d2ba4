package observe

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tollgate-mesh/tollgate/adapter/policy/rego"
)

var (
	policyRevision = describe("tollgate_policy_revision_info", "Always 1; the revision of a policy source that is in force is a label.", "source", "revision")
	policyAge      = describe("tollgate_policy_age_seconds", "Time since a policy source was last heard of; absent where it never was.", "source")
	policyRules    = describe("tollgate_policy_rules", "Rules of a policy source that handlers decide by, by state (current, behind).", "source", "state")
	policyReads    = describe("tollgate_policy_reads_total", "Attempts to read a policy source, by result (ok, failed).", "source", "result")
	policyFailing  = describe("tollgate_policy_failing", "1 where the last attempt to read a policy source failed, and an earlier revision or none is in force.", "source")
)

// CountPolicies makes what is known of policy sources metrics.
func (o *Observer) CountPolicies(stats func() map[string]rego.Stats) {
	o.registry.MustRegister(&policyCollector{stats})
}

type policyCollector struct{ stats func() map[string]rego.Stats }

// Describe describes all there is.
func (c *policyCollector) Describe(to chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{policyRevision, policyAge, policyRules, policyReads, policyFailing} {
		to <- desc
	}
}

// Collect reads the figures.
func (c *policyCollector) Collect(to chan<- prometheus.Metric) {
	for name, s := range c.stats() {
		if s.Revision != "" {
			to <- prometheus.MustNewConstMetric(policyRevision, prometheus.GaugeValue, 1, name, s.Revision)
			to <- prometheus.MustNewConstMetric(policyAge, prometheus.GaugeValue, s.Age.Seconds(), name)
		}
		to <- prometheus.MustNewConstMetric(policyRules, prometheus.GaugeValue, float64(s.Rules-s.Behind), name, "current")
		to <- prometheus.MustNewConstMetric(policyRules, prometheus.GaugeValue, float64(s.Behind), name, "behind")
		to <- prometheus.MustNewConstMetric(policyReads, prometheus.CounterValue, float64(s.Accepted), name, "ok")
		to <- prometheus.MustNewConstMetric(policyReads, prometheus.CounterValue, float64(s.Rejected), name, "failed")
		failing := 0.0
		if s.Err != nil {
			failing = 1
		}
		to <- prometheus.MustNewConstMetric(policyFailing, prometheus.GaugeValue, failing, name)
	}
}

// Printed logs what a policy prints, at debug. It writes ten lines a second at most, and says how many it left out.
func (o *Observer) Printed(p rego.Printed) {
	if !o.prints.Allow() {
		o.unprinted.Add(1)
		return
	}
	o.logger.Debug("a policy prints", "handler", p.Handler, "place", p.Place, "text", p.Text, "left_out_before", o.unprinted.Swap(0))
}
