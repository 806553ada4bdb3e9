"""Archives, benchmarks, scores, results and reports."""
