"""Search against published truth: exact fronts, and once-for-all's own evolution."""
