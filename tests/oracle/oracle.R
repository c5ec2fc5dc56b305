# What R says of the data that test_r.py writes: the constants of r.json.
#
#   python tests/oracle/test_r.py FOLDER                  writes the data
#   Rscript tests/oracle/oracle.R FOLDER > r.json         asks R (4.2.2) and its package survival (3.5-3)
#
# CI has no R: the constants were made once, and are made anew only when a question is added.

library(survival)
folder <- commandArgs(trailingOnly = TRUE)[1]
data <- function(name) read.csv(file.path(folder, paste0(name, ".csv")))
first <- TRUE
tell <- function(name, ...) {
  values <- suppressWarnings(as.numeric(c(...)))
  shown <- ifelse(is.finite(values), sprintf("%.17g", values), "null")
  cat(if (first) "{\n" else ",\n", " \"", name, "\": [", paste(shown, collapse = ", "), "]", sep = "")
  first <<- FALSE
}
table_of <- function(fit) as.vector(t(coef(summary(fit))))

lung <- data("lung")
lung$sex <- factor(lung$sex, levels = c(1, 2))
right <- Surv(lung$time, lung$status)

for (ties in c("efron", "breslow")) {
  fit <- coxph(right ~ age + sex + ph.ecog, lung, ties = ties, eps = 1e-11, toler.chol = 1e-13, iter.max = 50)
  tell(paste0("cox_", ties), coef(fit), sqrt(diag(vcov(fit))), fit$loglik)
}
fit <- coxph(right ~ age + sex + ph.ecog + strata(inst), lung, eps = 1e-11, toler.chol = 1e-13, iter.max = 50)
tell("cox_strata", coef(fit), sqrt(diag(vcov(fit))), fit$loglik)
late <- subset(lung, entry < time)
entered <- Surv(late$entry, late$time, late$status)
fit <- coxph(entered ~ age + sex, late, eps = 1e-11, toler.chol = 1e-13, iter.max = 50)
tell("cox_entry", coef(fit), sqrt(diag(vcov(fit))))

curve <- survfit(right ~ sex, lung, conf.type = "log-log")
at <- summary(curve, times = c(90, 180, 365, 730))
tell("survival", at$surv, at$std.err, at$lower, at$upper)
tell("median", summary(curve)$table[, c("median", "0.95LCL", "0.95UCL")])
mean_to <- summary(curve, rmean = 365)$table
tell("restricted_mean", mean_to[, "rmean"], mean_to[, "se(rmean)"])
hazard <- summary(survfit(right ~ 1, lung, ctype = 1), times = c(90, 365))
tell("nelson_aalen", hazard$cumhaz, hazard$std.chaz)

tell("log_rank", survdiff(right ~ sex, lung)$chisq)
tell("log_rank_peto", survdiff(right ~ sex, lung, rho = 1)$chisq)
tell("log_rank_strata", survdiff(right ~ sex + strata(ph.ecog), lung)$chisq)

kinds <- survfit(Surv(lung$time, factor(lung$kind, levels = 0:2)) ~ 1)
at <- summary(kinds, times = c(90, 180, 365, 730))
tell("competing", at$pstate[, 2], at$pstate[, 3])
tell("competing_error", at$std.err[, 2], at$std.err[, 3])

cells <- data("cells")
exact <- glm.control(epsilon = 1e-15, maxit = 100)
fit <- glm(malignant ~ mean_radius + mean_texture + mean_smoothness, binomial, cells, control = exact)
tell("logistic", table_of(fit), deviance(fit), AIC(fit), fit$null.deviance)
fit <- glm(malignant ~ mean_radius + mean_texture, binomial("probit"), cells, control = exact)
tell("probit", table_of(fit))
fit <- glm(malignant ~ mean_radius + mean_texture, binomial("cloglog"), cells, control = exact)
tell("cloglog", table_of(fit))
fit <- glm(mean_area ~ mean_radius + mean_smoothness, Gamma("log"), cells, control = exact)
tell("gamma", table_of(fit), summary(fit)$dispersion)
fit <- lm(mean_texture ~ mean_radius * mean_smoothness, cells)
tell("linear", table_of(fit), summary(fit)$r.squared, summary(fit)$adj.r.squared, logLik(fit), AIC(fit), BIC(fit))
executions <- data("executions")
fit <- glm(EXECUTIONS ~ SOUTH + DEGREE + offset(log(INCOME)), poisson, executions, control = exact)
tell("poisson_offset", table_of(fit), deviance(fit), AIC(fit))

for (equal in c(FALSE, TRUE)) {
  found <- t.test(mean_radius ~ malignant, cells, var.equal = equal)
  tell(if (equal) "t_student" else "t_welch", found$statistic, found$parameter, found$p.value, found$conf.int)
}
found <- wilcox.test(round(mean_texture) ~ malignant, cells, exact = FALSE, correct = TRUE)
tell("mann_whitney", found$statistic, found$p.value)
cells$third <- factor(cells$third)
tell("kruskal", with(kruskal.test(round(mean_texture) ~ third, cells), c(statistic, p.value)))
tell("anova", unlist(anova(lm(mean_texture ~ third, cells))[1, c("F value", "Pr(>F)")]))
tell("anova_welch", with(oneway.test(mean_texture ~ third, cells), c(statistic, parameter, p.value)))
correlation <- cor.test(cells$mean_radius, cells$mean_smoothness)
tell("correlation", correlation$estimate, correlation$conf.int)

counts <- table(cells$third, cells$malignant)
tell("chi_squared", chisq.test(counts, correct = FALSE)[c("statistic", "p.value")])
two <- matrix(c(3, 11, 9, 4), 2)
tell("yates", chisq.test(two, correct = TRUE)[c("statistic", "p.value")])
tell("fisher", fisher.test(two)$p.value)

admitted <- UCBAdmissions # admitted or not, by gender, by department; from R's datasets
tell("admissions", admitted)
for (corrected in c(FALSE, TRUE)) {
  found <- mantelhaen.test(admitted, correct = corrected)
  tell(paste0("mantel_haenszel_", tolower(corrected)), found$statistic, found$p.value, found$estimate, found$conf.int)
}

tell("poisson_limits", poisson.test(17, 4321.5)$conf.int)
tell("binomial_limits", binom.test(17, 290)$conf.int)
tell("quantiles", quantile(cells$mean_radius, c(0.05, 0.25, 0.5, 0.75, 0.95), type = 7))
tell("moments", mean(cells$mean_radius), var(cells$mean_radius))
components <- prcomp(cells[, c("mean_radius", "mean_texture", "mean_smoothness")], scale. = TRUE)
tell("components", components$sdev^2)
cat("\n}\n")
