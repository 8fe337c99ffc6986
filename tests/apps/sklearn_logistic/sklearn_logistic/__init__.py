"""sklearn_logistic: Logistic regression with scikit-learn and Flower's former API."""
